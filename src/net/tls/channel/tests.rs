use std::io::{Read, Write};
use std::sync::Arc;

use proptest::prelude::*;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::client::UnbufferedClientConnection;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig};

use super::*;

/// What both sides of a connection need.
fn configs() -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let provider = Arc::new(default_provider());
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (Arc::new(server), Arc::new(client))
}

fn name() -> ServerName<'static> {
    ServerName::try_from("localhost").unwrap()
}

/// Both sides of ours.
fn pair() -> (Channel, Channel) {
    let (server, client) = configs();
    let server = Channel::server(UnbufferedServerConnection::new(server).unwrap());
    let client = Channel::client(UnbufferedClientConnection::new(client, name()).unwrap());
    (server, client)
}

/// Shakes hands, with every flight cut into pieces of this size.
fn shake(server: &mut Channel, client: &mut Channel, size: usize) {
    let (mut to_server, mut to_client, mut plain) = (Vec::new(), Vec::new(), Vec::new());
    client.shake(&[], &mut plain, &mut to_server).unwrap();
    for _ in 0..4 {
        for piece in std::mem::take(&mut to_server).chunks(size) {
            server.shake(piece, &mut plain, &mut to_client).unwrap();
        }
        for piece in std::mem::take(&mut to_client).chunks(size) {
            client.shake(piece, &mut plain, &mut to_server).unwrap();
        }
    }
    assert!(!server.is_handshaking && !client.is_handshaking && plain.is_empty());
}

/// Opens records as a worker does, with at most `room` bytes read at a time.
fn open_like_a_worker(
    channel: &mut Channel,
    mut wire: &[u8],
    room: usize,
) -> Result<(Vec<u8>, Vec<u8>), ChannelError> {
    let (mut plain, mut out) = (Vec::new(), Vec::new());
    let mut buffer = vec![0; RECORD_BYTES_MAX + room];
    while !wire.is_empty() {
        let count = wire.len().min(room);
        let held = channel.held_bytes();
        buffer[held..held + count].copy_from_slice(&wire[..count]);
        wire = &wire[count..];
        let records = &mut buffer[..held + count];
        channel.release_held(records);
        channel.open(records, &mut out, &mut |payload| plain.extend_from_slice(payload))?;
    }
    Ok((plain, out))
}

#[test]
fn a_handshake_may_come_in_any_pieces() {
    for size in [1, 5, 100, 1000, 100_000] {
        let (mut server, mut client) = pair();
        shake(&mut server, &mut client, size);
        assert_eq!(server.describe(), "TLSv1.3/TLS_AES_256_GCM_SHA384");
        assert_eq!(server.held_bytes() + client.held_bytes(), 0);
    }
}

#[test]
fn the_end_is_told_from_a_cut() {
    let (mut server, mut client) = pair();
    shake(&mut server, &mut client, 1000);
    let mut wire = Vec::new();
    client.seal(b"last words", &mut wire).unwrap();
    client.close(&mut wire).unwrap();
    let after_the_end = wire.len();
    wire.extend_from_slice(b"anybody could have put this here");
    let (plain, _) = open_like_a_worker(&mut server, &wire[..after_the_end - 1], 4096).unwrap();
    assert_eq!(plain, b"last words");
    assert!(!server.is_peer_closed(), "its last record is not whole");
    let (plain, _) = open_like_a_worker(&mut server, &wire[after_the_end - 1..], 4096).unwrap();
    assert!(plain.is_empty() && server.is_peer_closed());
    // The other direction goes on.
    let mut answer = Vec::new();
    server.seal(b"goodbye", &mut answer).unwrap();
    assert_eq!(open_like_a_worker(&mut client, &answer, 4096).unwrap().0, b"goodbye");
}

#[test]
fn changed_records_end_the_connection_with_an_alert() {
    // The header's other bytes mean nothing as of TLS 1.3.
    for at in [3, 4, 5, 20, 40] {
        let (mut server, mut client) = pair();
        shake(&mut server, &mut client, 1000);
        let mut wire = Vec::new();
        client.seal(b"transfer 100 to alice", &mut wire).unwrap();
        wire[at] ^= 1;
        let mut out = Vec::new();
        let opened = server.feed(&wire, &mut Vec::new(), &mut out);
        // It says that it is longer, so the rest is waited for.
        let is_longer_now = [3, 4].contains(&at) && opened.is_ok();
        assert!(is_longer_now || opened.is_err(), "byte {at}");
        if opened.is_err() {
            assert!(open_like_a_worker(&mut client, &out, 4096).is_err(), "byte {at}: an alert");
            assert!(server.feed(b"more", &mut Vec::new(), &mut out).is_err());
        }
    }
}

#[test]
fn records_out_of_turn_and_twice_are_refused() {
    let (mut server, mut client) = pair();
    shake(&mut server, &mut client, 1000);
    let mut wire = Vec::new();
    client.seal(b"once", &mut wire).unwrap();
    let (plain, _) = open_like_a_worker(&mut server, &wire, 4096).unwrap();
    assert_eq!(plain, b"once");
    assert!(open_like_a_worker(&mut server, &wire, 4096).is_err());
}

#[test]
fn plaintext_and_nonsense_are_no_handshake() {
    for garbage in [
        &b"\0\0\0\x08\x04\xd2\x16\x2f"[..],
        b"GET / HTTP/1.1\r\n\r\n",
        &[0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0],
        &[0x16; 100],
        &[0xff; 10_000],
    ] {
        let (mut server, _) = pair();
        let (mut plain, mut out) = (Vec::new(), Vec::new());
        let shaken = server.shake(garbage, &mut plain, &mut out);
        assert!(shaken.is_err(), "{}", garbage.escape_ascii());
        assert!(plain.is_empty());
    }
}

#[test]
fn a_hello_without_end_is_given_up() {
    let (mut server, _) = pair();
    let (mut plain, mut out) = (Vec::new(), Vec::new());
    // Records of a handshake message that is said to have 64 KiB, and gets longer and longer.
    let mut sent = 0;
    let record = |first: bool| {
        let mut body = vec![0; 16_000];
        if first {
            body[..4].copy_from_slice(&[1, 0, 0xff, 0xff]);
        }
        [&[0x16, 3, 1, 0x3e, 0x80][..], &body].concat()
    };
    let error = loop {
        let fed = server.shake(&record(sent == 0), &mut plain, &mut out);
        sent += 1;
        if let Err(error) = fed {
            break error;
        }
        assert!(sent < 20, "it is taken without end");
    };
    assert!(server.held_bytes() <= HANDSHAKE_BYTES_MAX + RECORD_BYTES_MAX, "{error}");
}

/// A peer by rustls' buffered interface, which can be told to change its keys.
#[test]
fn keys_are_changed_when_the_peer_asks() {
    let (server, client) = configs();
    let mut server = Channel::server(UnbufferedServerConnection::new(server).unwrap());
    let mut client = ClientConnection::new(client, name()).unwrap();
    let (mut plain, mut out) = (Vec::new(), Vec::new());
    let exchange = |client: &mut ClientConnection,
                    server: &mut Channel,
                    out: &mut Vec<u8>,
                    plain: &mut Vec<u8>| {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        server.feed(&wire, plain, out).unwrap();
        let mut answer = &std::mem::take(out)[..];
        while !answer.is_empty() {
            client.read_tls(&mut answer).unwrap();
            client.process_new_packets().unwrap();
        }
    };
    for _ in 0..3 {
        exchange(&mut client, &mut server, &mut out, &mut plain);
    }
    for round in 0..5 {
        client.refresh_traffic_keys().unwrap();
        client.writer().write_all(b"ping").unwrap();
        exchange(&mut client, &mut server, &mut out, &mut plain);
        assert_eq!(std::mem::take(&mut plain), b"ping", "round {round}");
        // The answer to the request goes in front of what is said next.
        server.seal(b"pong", &mut out).unwrap();
        exchange(&mut client, &mut server, &mut out, &mut plain);
        let mut answer = [0; 4];
        client.reader().read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"pong", "round {round}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn what_is_sealed_is_opened_in_any_pieces(
        messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40_000), 1..6),
        room in 1..70_000_usize,
    ) {
        let (mut server, mut client) = pair();
        shake(&mut server, &mut client, 1000);
        let mut wire = Vec::new();
        for message in &messages {
            client.seal(message, &mut wire).unwrap();
        }
        let (plain, out) = open_like_a_worker(&mut server, &wire, room).unwrap();
        prop_assert_eq!(plain, messages.concat());
        prop_assert!(out.is_empty());
        prop_assert_eq!(server.held_bytes(), 0);
    }
}
