use std::time::Duration;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;
use crate::auth::scram::{ClientCredential, ScramSecret, ServerExchange};
use crate::auth::{Learned, md5};
use crate::config::Config;
use crate::fault::Fault;
use crate::secret::Secret;
use crate::wire::encode::{authentication, authentication_ok, message, parameter_status};

const READY: &[u8] = b"Z\0\0\0\x05I";
const NAMES: [Parameter<'_>; 2] = [(b"user", b"u"), (b"database", b"d")];
const KEY: &[u8] = b"K\0\0\0\x0c\0\0\0\x07\x01\x02\x03\x04";
const SASL_OFFER: &[u8] = b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0";

fn stored(password: &str) -> Credentials {
    Credentials { stored: Some(Secret::new(password)), ..Credentials::default() }
}

fn bytes(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

/// Everything behind the login, as PostgreSQL sends it.
fn greeting() -> Vec<u8> {
    bytes(|out| {
        authentication_ok(out);
        parameter_status(out, b"server_version", b"15.7");
        parameter_status(out, b"TimeZone", b"UTC");
        parameter_status(out, b"server_version", b"16.0");
        out.extend_from_slice(KEY);
        out.extend_from_slice(READY);
    })
}

/// The server's end of a connection in memory.
struct Script(DuplexStream);

impl Script {
    async fn startup(&mut self) -> Vec<u8> {
        let length = self.0.read_u32().await.unwrap();
        self.body(length).await
    }

    /// Receives an answer to an authentication request.
    async fn answer(&mut self) -> Vec<u8> {
        assert_eq!(self.0.read_u8().await.unwrap(), b'p');
        let length = self.0.read_u32().await.unwrap();
        self.body(length).await
    }

    async fn body(&mut self, length: u32) -> Vec<u8> {
        let mut body = vec![0; usize::try_from(length).unwrap() - 4];
        self.0.read_exact(&mut body).await.unwrap();
        body
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    async fn ask(&mut self, code: u32, data: &[u8]) {
        self.send(&bytes(|out| authentication(out, code, data))).await;
    }
}

/// Logs in as `u` to database `d` at a server that runs `script`.
async fn log_in_to<F: Future<Output = ()>>(
    credentials: &Credentials,
    script: impl FnOnce(Script) -> F,
) -> Result<(Greeting, Vec<u8>), ConnectError> {
    let (ours, theirs) = duplex(1024);
    let mut server = Server::new(ours);
    let login = async {
        let outcome = log_in(&mut server, Version::NEWEST, &NAMES, "u", credentials).await;
        let unread = server.inbox.to_vec();
        drop(server);
        outcome.map(|greeting| (greeting, unread))
    };
    tokio::join!(login, script(Script(theirs))).0
}

/// Logs in at a server that says `reply` to the startup packet and closes.
async fn log_in_to_reply(reply: &[u8]) -> Result<(Greeting, Vec<u8>), ConnectError> {
    log_in_to(&stored("p"), async |mut script: Script| {
        script.startup().await;
        let _ = script.0.write_all(reply).await;
    })
    .await
}

async fn scram_server(mut script: Script, password: &str, signing_password: &str) {
    script.startup().await;
    script.ask(10, SASL_OFFER).await;
    let mut secret = ScramSecret::from_password(password.as_bytes(), b"salt", 10);
    let signer = ScramSecret::from_password(signing_password.as_bytes(), b"salt", 10);
    secret.server_key = signer.server_key;
    let mut exchange = ServerExchange::new(secret, true, scram::nonce());
    let initial = script.answer().await;
    let (mechanism, rest) = initial.split_at(14);
    assert_eq!(mechanism, b"SCRAM-SHA-256\0");
    let (length, client_first) = rest.split_at(4);
    assert_eq!(
        u32::from_be_bytes(length.try_into().unwrap()),
        u32::try_from(client_first.len()).unwrap()
    );
    script.ask(11, &exchange.first(client_first).unwrap()).await;
    let client_final = script.answer().await;
    if let Ok((server_final, _)) = exchange.last(&client_final) {
        script.ask(12, &server_final).await;
        let _ = script.0.write_all(&greeting()).await;
    } else {
        script.send(&error(b"C28P01\0Mpassword authentication failed\0\0")).await;
    }
}

/// What a server with this secret learns from a client that logs in.
fn learned_keys(password: &[u8], salt: &[u8], iterations: u32) -> scram::ClientKeys {
    let secret = ScramSecret::from_password(password, salt, iterations);
    let mut server = ServerExchange::new(secret, true, scram::nonce());
    let credential = ClientCredential::Password(Secret::new(password));
    let mut client = ClientExchange::new(credential, scram::nonce());
    let challenge = server.first(&client.first()).unwrap();
    server.last(&client.last(&challenge).unwrap()).unwrap().1
}

fn error(fields: &[u8]) -> Vec<u8> {
    bytes(|out| message(out, b'E', |out| out.extend_from_slice(fields)))
}

#[tokio::test]
async fn trust_collects_what_the_server_reports() {
    let (greeting, unread) = log_in_to(&Credentials::default(), async |mut script: Script| {
        assert_eq!(script.startup().await, b"\0\x03\0\x02user\0u\0database\0d\0\0");
        script.send(b"v\0\0\0\x0c\0\0\0\0\0\0\0\0").await;
        script.send(b"N\0\0\0\x0dSNOTICE\0\0").await;
        script.send(&greeting()).await;
        script.send(b"S\0\0").await;
    })
    .await
    .unwrap();
    let pair = |name: &str, value: &str| (name.as_bytes().to_vec(), value.as_bytes().to_vec());
    assert_eq!(greeting.parameters, [pair("server_version", "16.0"), pair("TimeZone", "UTC")]);
    assert_eq!(greeting.cancel_key, CancelKey { pid: 7, secret: vec![1, 2, 3, 4] });
    assert!(unread.is_empty() || b"S\0\0".starts_with(&unread));
}

#[tokio::test]
async fn any_split_of_the_bytes_gives_the_same_login() {
    let bytes = greeting();
    for chunk in 1..bytes.len() {
        let (greeting, unread) = log_in_to(&Credentials::default(), async |mut script: Script| {
            script.startup().await;
            for part in bytes.chunks(chunk) {
                script.send(part).await;
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
        assert_eq!((greeting.parameters.len(), unread.len()), (2, 0), "chunks of {chunk}");
    }
}

#[tokio::test]
async fn bytes_behind_the_first_ready_for_query_are_kept() {
    let (_, unread) = log_in_to_reply(&[&greeting(), &b"S\0\0\0\x08a"[..]].concat()).await.unwrap();
    assert_eq!(unread, b"S\0\0\0\x08a");
}

#[tokio::test]
async fn clear_text_and_md5_are_answered() {
    log_in_to(&stored("p"), async |mut script: Script| {
        script.startup().await;
        script.ask(3, b"").await;
        assert_eq!(script.answer().await, b"p\0");
        script.send(&greeting()).await;
    })
    .await
    .unwrap();
    for credentials in [stored("p"), stored(&md5::shadow(b"p", b"u"))] {
        log_in_to(&credentials, async |mut script: Script| {
            script.startup().await;
            script.ask(5, &[1, 2, 3, 4]).await;
            let expected = md5::response(&md5::shadow(b"p", b"u"), [1, 2, 3, 4]).unwrap();
            assert_eq!(script.answer().await, [expected.as_bytes(), b"\0"].concat());
            script.send(&greeting()).await;
        })
        .await
        .unwrap();
    }
}

#[tokio::test]
async fn scram_is_answered_by_password_and_by_learned_keys() {
    log_in_to(&stored("p"), async |script| {
        scram_server(script, "p", "p").await;
    })
    .await
    .unwrap();
    let with_keys = |salt| Credentials {
        stored: Some(Secret::new(ScramSecret::from_password(b"p", b"stored", 1).to_string())),
        learned: Some(Learned::Keys(learned_keys(b"p", salt, 10))),
        ..Credentials::default()
    };
    log_in_to(&with_keys(b"salt"), async |script| {
        scram_server(script, "p", "p").await;
    })
    .await
    .unwrap();
    // Where another secret is stored, the keys are as good as a wrong password.
    let outcome = log_in_to(&with_keys(b"pepper"), async |script| {
        scram_server(script, "p", "p").await;
    })
    .await;
    let refused = Fault::fatal(SqlState::INVALID_PASSWORD, "password authentication failed");
    assert_eq!(outcome.unwrap_err().fault(), refused);
}

#[tokio::test]
async fn a_server_that_does_not_know_the_secret_is_not_trusted() {
    let outcome = log_in_to(&stored("p"), async |script| {
        scram_server(script, "p", "other").await;
    })
    .await;
    let error = outcome.unwrap_err();
    assert!(matches!(error, ConnectError::Scram { source: ScramError::WrongSignature }), "{error}");
    assert_eq!(
        error.fault(),
        Fault::fatal(SqlState::CANNOT_CONNECT, "cannot connect to server: authentication failed")
    );
}

#[tokio::test]
async fn a_server_may_not_skip_its_own_proof() {
    for after in [11, 12] {
        let outcome = log_in_to(&stored("p"), async |mut script: Script| {
            script.startup().await;
            script.ask(10, SASL_OFFER).await;
            let client_first = script.answer().await;
            if after == 12 {
                let nonce = std::str::from_utf8(&client_first[18..]).unwrap();
                let nonce = nonce.split_once(",r=").unwrap().1;
                script.ask(11, format!("r={nonce}x,s=AAAA,i=1").as_bytes()).await;
                script.answer().await;
            }
            let _ = script.0.write_all(&greeting()).await;
        })
        .await;
        let error = outcome.unwrap_err();
        assert!(matches!(error, ConnectError::UnexpectedRequest { request: 0 }), "{error}");
    }
}

#[tokio::test]
async fn without_a_usable_credential_nothing_is_answered() {
    let scram = ScramSecret::from_password(b"p", b"salt", 1).to_string();
    let shadow = md5::shadow(b"p", b"u");
    let check = async |credentials: Credentials, request: u32, data: &[u8]| {
        let outcome = log_in_to(&credentials, async |mut script: Script| {
            script.startup().await;
            script.ask(request, data).await;
            assert_eq!(script.0.read(&mut [0]).await.unwrap(), 0);
        })
        .await;
        let fault = outcome.unwrap_err().fault();
        assert_eq!(fault.sqlstate, SqlState::INVALID_PASSWORD);
        assert_eq!(fault.message, "no password to log in to the server as user \"u\"");
    };
    for (request, data) in [(3, &b""[..]), (5, b"salt"), (10, SASL_OFFER)] {
        check(Credentials::default(), request, data).await;
        check(stored(&scram), request, data).await;
    }
    check(stored(&shadow), 3, b"").await;
    check(stored(&shadow), 10, SASL_OFFER).await;
}

#[tokio::test]
async fn unsupported_requests_are_named() {
    let reply = |code, data: &[u8]| bytes(|out| authentication(out, code, data));
    let error = log_in_to_reply(&reply(7, b"")).await.unwrap_err();
    assert!(matches!(error, ConnectError::UnsupportedMethod { request: 7 }), "{error}");
    let error = log_in_to_reply(&reply(10, b"OAUTHBEARER\0\0")).await.unwrap_err();
    assert!(matches!(error, ConnectError::UnsupportedMechanism), "{error}");
    assert_eq!(error.fault().sqlstate, SqlState::CANNOT_CONNECT);
}

#[tokio::test]
async fn errors_of_the_server_keep_their_code_and_text() {
    let check = async |fields: &[u8], sqlstate: &[u8; 5], text: &str| {
        let error = log_in_to_reply(&error(fields)).await.unwrap_err();
        assert_eq!(error.fault(), Fault::fatal(SqlState(*sqlstate), text.to_owned()));
        assert_eq!(error.lack() == Lack::Starting, sqlstate == b"57P03");
    };
    check(b"SFATAL\0VFATAL\0C3D000\0Mno such database\0\0", b"3D000", "no such database").await;
    check(b"C57P03\0Mstarting up\0\0", b"57P03", "starting up").await;
    check(b"C53300\0M\xff\0\0", b"53300", "\u{fffd}").await;
    check(b"C\r\n\t!!\0Mx\0\0", b"08001", "x").await;
    check(b"C53300\0\0", b"53300", "server refused the login").await;
}

#[tokio::test]
async fn errors_of_the_server_count_although_it_closed_before_we_sent() {
    let (ours, mut theirs) = duplex(1024);
    theirs.write_all(&error(b"C53300\0Mtoo many\0\0")).await.unwrap();
    drop(theirs);
    let outcome =
        log_in(&mut Server::new(ours), Version::NEWEST, &NAMES, "u", &Credentials::default()).await;
    assert_eq!(outcome.unwrap_err().fault().message, "too many");
}

#[tokio::test]
async fn what_breaks_the_protocol_is_refused() {
    let check = async |reply: &[u8], expected: fn(&ConnectError) -> bool| {
        let error = log_in_to_reply(reply).await.unwrap_err();
        assert!(expected(&error), "{}: {error}", reply.escape_ascii());
        assert_eq!(error.fault().sqlstate, SqlState::CANNOT_CONNECT);
    };
    let behind_ok = |reply: &[u8]| [b"R\0\0\0\x08\0\0\0\0", reply].concat();
    check(b"", |e| matches!(e, ConnectError::Lost { .. })).await;
    check(b"R\0\0", |e| matches!(e, ConnectError::Lost { .. })).await;
    check(b"HTTP/1.1 400 Bad Request", |e| matches!(e, ConnectError::Header { .. })).await;
    check(b"R\0\0\0\0", |e| matches!(e, ConnectError::Header { .. })).await;
    check(b"R\0\x01\0\x01", |e| matches!(e, ConnectError::Header { .. })).await;
    check(b"R\0\0\0\x06\0\0", |e| matches!(e, ConnectError::Malformed { .. })).await;
    check(b"R\0\0\0\x09\0\0\0\x05s", |e| matches!(e, ConnectError::Malformed { .. })).await;
    check(READY, |e| matches!(e, ConnectError::Unexpected { tag: b'Z' })).await;
    check(b"R\0\0\0\x08\0\0\0\x0c", |e| {
        matches!(e, ConnectError::UnsupportedMethod { request: 12 })
    })
    .await;
    let malformed: fn(&ConnectError) -> bool = |e| matches!(e, ConnectError::Malformed { .. });
    check(&behind_ok(b"Z\0\0\0\x05T"), malformed).await;
    check(&behind_ok(b"Z\0\0\0\x04"), malformed).await;
    check(&behind_ok(b"S\0\0\0\x06ab"), malformed).await;
    check(&behind_ok(b"K\0\0\0\x0b\0\0\0\x01\0\0\0"), malformed).await;
    check(&behind_ok(b"T\0\0\0\x04"), |e| matches!(e, ConnectError::Unexpected { tag: b'T' }))
        .await;
}

#[tokio::test]
async fn floods_are_cut_off() {
    let parameters = bytes(|out| {
        authentication_ok(out);
        for number in 0..=PARAMETERS_MAX {
            parameter_status(out, number.to_string().as_bytes(), b"");
        }
    });
    let error = log_in_to_reply(&parameters).await.unwrap_err();
    assert!(matches!(error, ConnectError::TooMuch), "{error}");
    let notices = b"N\0\0\0\x05\0".repeat(LOGIN_BYTES_MAX / 6 + 1);
    let error = log_in_to_reply(&notices).await.unwrap_err();
    assert!(matches!(error, ConnectError::TooMuch), "{error}");
}

fn settings(port: u16) -> PoolSettings {
    let text = format!(
        "[databases.d]\nhost = \"127.0.0.1\"\nport = {port}\n\
         [general]\nserver_connect_timeout = \"100ms\"\n"
    );
    Config::parse(&text, "proxy.toml", &|_| None).unwrap().pool_settings("d", "u").unwrap()
}

async fn open_at(settings: &PoolSettings) -> Result<Opened, ConnectError> {
    let server = &settings.servers[0];
    let places = [Place::Tcp(([127, 0, 0, 1], server.port).into())];
    let limit = settings.server_connect_timeout;
    let site = Site { server, places: &places, connector: None, limit };
    open(site, settings, &Credentials::default()).await
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let settings = settings(listener.local_addr().unwrap().port());
    let error = open_at(&settings).await.unwrap_err();
    let expected = Duration::from_millis(100);
    assert!(matches!(error, ConnectError::TimedOut { limit } if limit == expected), "{error}");
    assert_eq!(
        error.fault(),
        Fault::fatal(SqlState::CANNOT_CONNECT, "cannot connect to server: timed out")
    );
}

#[tokio::test]
async fn a_refused_port_is_told_without_address() {
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let error = open_at(&settings(port)).await.unwrap_err();
    assert_eq!(error.lack(), Lack::Lost);
    assert_eq!(
        error.fault(),
        Fault::fatal(SqlState::CANNOT_CONNECT, "cannot connect to server: connection refused")
    );
}

#[test]
fn the_secret_of_a_cancel_key_is_not_printed() {
    let key = CancelKey { pid: 77, secret: vec![201, 202, 203, 204] };
    assert_eq!(format!("{key:?}"), "CancelKey { pid: 77, .. }");
}

/// A message that is nearly right, so that the login gets somewhere.
fn near_message() -> impl Strategy<Value = Vec<u8>> {
    let tag = proptest::sample::select(b"RRRSKZNEvT".to_vec());
    let code = proptest::sample::select(vec![0_u32, 3, 5, 10, 11, 12, 99]);
    let text = prop_oneof![Just(SASL_OFFER.to_vec()), Just(b"a\0b\0".to_vec()), any::<Vec<u8>>()];
    (tag, code, text).prop_map(|(tag, code, text)| {
        bytes(|out| {
            message(out, tag, |out| {
                if tag == b'R' {
                    out.extend_from_slice(&code.to_be_bytes());
                }
                out.extend_from_slice(&text);
            });
        })
    })
}

proptest! {
    #[test]
    fn no_server_panics_us(
        messages in proptest::collection::vec(near_message(), 0..6),
        tail: Vec<u8>,
        cut in 0_usize..200,
    ) {
        let mut reply = [messages.concat(), tail].concat();
        reply.truncate(reply.len().saturating_sub(cut));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let _ = runtime.block_on(log_in_to_reply(&reply));
    }
}

#[test]
fn proofs_are_bound_where_both_sides_can() {
    let data: Arc<[u8]> = Arc::from(&b"hash"[..]);
    let own = Binding::EndPoint(Arc::clone(&data));
    let check = |names: &[u8], own: &Binding, expected: Option<&str>| {
        let chosen = binding(names, own);
        let shown = chosen.as_ref().map(|binding| match binding {
            Binding::EndPoint(_) => "p",
            Binding::NotOffered => "y",
            Binding::Unsupported => "n",
        });
        assert_eq!(shown, expected, "{}", names.escape_ascii());
    };
    let both = b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0";
    check(both, &own, Some("p"));
    check(both, &Binding::Unsupported, Some("n"));
    check(b"SCRAM-SHA-256\0\0", &own, Some("y"));
    check(b"SCRAM-SHA-256\0\0", &Binding::Unsupported, Some("n"));
    check(b"SCRAM-SHA-256-PLUS\0\0", &own, Some("p"));
    check(b"SCRAM-SHA-256-PLUS\0\0", &Binding::Unsupported, None);
    check(b"OTHER\0\0", &own, None);
}
