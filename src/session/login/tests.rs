//! Logins over socket pairs: raw bytes where the bytes matter, an independent client for the rest.

#![expect(clippy::large_futures, reason = "a login is boxed where it is spawned, and few run here")]

use std::future::Future;
use std::sync::LazyLock;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio_postgres::NoTls;

use crate::auth::md5;
use crate::auth::scram::ScramSecret;
use crate::config::{AuthType, Database, User};
use crate::net::tls::{Acceptor, Connectors};
use crate::secret::Secret;
use crate::wire::tag::frontend;

use super::*;

const PROCESS_SECRET: [u8; 32] = [7; 32];
const PASSWORD: &str = "pässword";

/// Takes a while to derive, so it is done once.
static SCRAM: LazyLock<String> = LazyLock::new(|| {
    ScramSecret::from_password(PASSWORD.as_bytes(), b"salt of the user", 4096).to_string()
});

/// A startup message of user `u` for database `d`.
const STARTUP: &[u8] = b"\0\0\0\x1b\0\x03\0\0user\0u\0database\0d\0\0";
const SSL_REQUEST: &[u8] = &[0, 0, 0, 8, 4, 210, 22, 47];
const GSSENC_REQUEST: &[u8] = &[0, 0, 0, 8, 4, 210, 22, 48];
const AUTHENTICATION_OK: &[u8] = b"R\0\0\0\x08\0\0\0\0";

/// One user per form of secret, and one without; database `d`.
fn config(auth_type: AuthType) -> Config {
    let mut config = Config::parse("[databases.d]\nhost = \"127.0.0.1\"\n", "", &|_| None).unwrap();
    config.general.auth_type = auth_type;
    config.general.client_login_timeout = Some(Duration::from_mins(1));
    for (name, password) in [
        ("plain", Some(PASSWORD.to_owned())),
        ("md5", Some(md5::shadow(PASSWORD.as_bytes(), b"md5"))),
        ("scram", Some(SCRAM.clone())),
        ("empty", Some(String::new())),
        ("md5_of_empty", Some(md5::shadow(b"", b"md5_of_empty"))),
        ("none", None),
    ] {
        let user = User { password: password.map(Secret::new), ..User::default() };
        config.users.insert(name.to_owned(), user);
    }
    config
}

/// Clients are offered no TLS.
fn no_tls() -> Acceptor {
    Acceptor::new(&Config::default().general).unwrap()
}

/// Leads a connection through its login; nobody else is asked about users.
async fn accept(
    stream: UnixStream,
    config: &Config,
    acceptor: &Acceptor,
    admission: &Arc<Admission>,
) -> Accepted {
    let (connectors, lookups) = (Connectors::default(), Lookups::new(Arc::default()));
    let reception = Reception {
        config,
        acceptor,
        connectors: &connectors,
        lookups: &lookups,
        admission,
        process_secret: &PROCESS_SECRET,
    };
    super::accept(Stream::Unix(stream), Peer::Unix, reception).await
}

/// Leads one connection through `accept`, while `client` talks at its other end.
async fn meet<T, F: Future<Output = T>>(
    config: &Config,
    client: impl FnOnce(UnixStream) -> F,
) -> (Accepted, T) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let admission = Admission::new();
    let acceptor = no_tls();
    let ours = accept(ours, config, &acceptor, &admission);
    tokio::join!(ours, client(theirs))
}

/// Sends `bytes` at once and returns everything that is answered until the connection ends; nothing
/// for a client that is let in.
async fn answer(config: &Config, bytes: &[u8]) -> (Accepted, Vec<u8>) {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let bytes = bytes.to_vec();
    let client = tokio::spawn(async move {
        theirs.write_all(&bytes).await.unwrap();
        let mut answer = Vec::new();
        theirs.read_to_end(&mut answer).await.unwrap();
        answer
    });
    let admission = Admission::new();
    let accepted = accept(ours, config, &no_tls(), &admission).await;
    let answer = match &accepted {
        Accepted::Gone => client.await.unwrap(),
        // The connection is still open.
        Accepted::Cancel { .. } | Accepted::Login(_) | Accepted::Console(_) => Vec::new(),
    };
    (accepted, answer)
}

/// What a client that speaks the protocol properly gets: how it got in, or the code of the error.
async fn login(
    config: &Config,
    user: &str,
    database: &str,
    password: &str,
) -> Result<Authenticated, String> {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let admission = Admission::new();
    let ours = async {
        let accepted = accept(ours, config, &no_tls(), &admission).await;
        let Accepted::Login(mut authenticated) = accepted else { return None };
        let mut greeting = authenticated.greeting.clone();
        encode::ready_for_query(&mut greeting, b'I');
        authenticated.stream.write_all(&greeting).await.unwrap();
        Some(*authenticated)
    };
    let mut client = tokio_postgres::Config::new();
    client.user(user).dbname(database).password(password);
    let (authenticated, connected) = tokio::join!(ours, client.connect_raw(theirs, NoTls));
    match connected {
        Ok(_) => Ok(authenticated.expect("a client that got in was let in")),
        Err(error) => {
            assert!(authenticated.is_none(), "{error}");
            let code = error.code().map(|code| code.code().to_owned());
            Err(code.unwrap_or_else(|| error.to_string()))
        }
    }
}

#[tokio::test]
async fn every_form_of_secret_answers_the_ways_it_can() {
    use AuthType::{Md5, Plain, ScramSha256, Trust};
    const DENIED: &str = "28P01";
    for (auth_type, user, right, wrong) in [
        (Trust, "plain", Ok("nothing"), Ok("nothing")),
        (Trust, "nobody", Ok("nothing"), Ok("nothing")),
        (Plain, "plain", Ok("password"), Err(DENIED)),
        (Plain, "md5", Ok("password"), Err(DENIED)),
        (Plain, "scram", Ok("password"), Err(DENIED)),
        (Plain, "none", Err(DENIED), Err(DENIED)),
        (Plain, "nobody", Err(DENIED), Err(DENIED)),
        (Md5, "plain", Ok("password"), Err(DENIED)),
        (Md5, "md5", Ok("shadow"), Err(DENIED)),
        (Md5, "scram", Ok("keys"), Err(DENIED)),
        (Md5, "none", Err(DENIED), Err(DENIED)),
        (Md5, "nobody", Err(DENIED), Err(DENIED)),
        (ScramSha256, "plain", Ok("password"), Err(DENIED)),
        (ScramSha256, "md5", Err(DENIED), Err(DENIED)),
        (ScramSha256, "scram", Ok("keys"), Err(DENIED)),
        (ScramSha256, "none", Err(DENIED), Err(DENIED)),
        (ScramSha256, "nobody", Err(DENIED), Err(DENIED)),
    ] {
        let config = config(auth_type);
        for (password, expected) in [(PASSWORD, right), ("other", wrong)] {
            let outcome = login(&config, user, "d", password).await;
            let learned = outcome.map(|authenticated| match authenticated.learned {
                Some(Learned::Password(learned)) => {
                    assert_eq!(learned.expose(), PASSWORD.as_bytes());
                    "password"
                }
                Some(Learned::Shadow(_)) => "shadow",
                Some(Learned::Keys(_)) => "keys",
                None => "nothing",
            });
            let learned = learned.as_ref().map(|learned| *learned).map_err(String::as_str);
            assert_eq!(learned, expected, "{auth_type:?} {user} {password}");
        }
    }
}

#[tokio::test]
async fn empty_passwords_are_refused_even_where_they_match() {
    for auth_type in [AuthType::Plain, AuthType::Md5, AuthType::ScramSha256] {
        for user in ["empty", "md5_of_empty", "plain"] {
            let outcome = login(&config(auth_type), user, "d", "").await;
            assert_eq!(outcome.expect_err("refused"), "28P01", "{auth_type:?} {user}");
        }
    }
}

#[tokio::test]
async fn an_unknown_database_is_told_only_after_the_proof_pooling_46() {
    for auth_type in [AuthType::Trust, AuthType::Plain, AuthType::Md5, AuthType::ScramSha256] {
        let config = config(auth_type);
        let outcome = login(&config, "plain", "nowhere", PASSWORD).await;
        assert_eq!(outcome.expect_err("refused"), "3D000", "{auth_type:?}");
        if auth_type != AuthType::Trust {
            let outcome = login(&config, "plain", "nowhere", "other").await;
            assert_eq!(outcome.expect_err("refused"), "28P01", "{auth_type:?}");
        }
    }
}

/// The bytes that we send to a client which gives a wrong password, without what is random.
async fn refusal(config: &Config, user: &str) -> Vec<Vec<u8>> {
    let (_, messages) = meet(config, async |mut client: UnixStream| {
        let mut out = Vec::new();
        wire_startup(&mut out, user);
        client.write_all(&out).await.unwrap();
        let mut messages = Vec::new();
        loop {
            let mut header = [0; 5];
            client.read_exact(&mut header).await.unwrap();
            let length = u32::from_be_bytes(header[1..].try_into().unwrap()) - 4;
            let mut body = vec![0; usize::try_from(length).unwrap()];
            client.read_exact(&mut body).await.unwrap();
            let mut out = Vec::new();
            match (header[0], body.get(3)) {
                (b'R', Some(10)) => {
                    encode::password(&mut out, b"SCRAM-SHA-256\0\0\0\0\x0bn,,n=,r=abc");
                }
                (b'R', Some(11)) => {
                    let challenge = String::from_utf8(body[4..].to_vec()).unwrap();
                    let (nonce, rest) = challenge.split_once(',').unwrap();
                    let proof = format!("c=biws,{nonce},p={}=", "A".repeat(43));
                    encode::password(&mut out, proof.as_bytes());
                    let rest = rest.split_once(',').unwrap().1.to_owned();
                    body = format!("{} {} {rest}", challenge.len(), nonce.len()).into();
                }
                (b'R', _) => {
                    encode::password(&mut out, b"wrong\0");
                    body.truncate(4);
                }
                _ => {
                    let text = String::from_utf8(body).unwrap().replace(user, "X");
                    messages.push(text.into_bytes());
                    return messages;
                }
            }
            messages.push(body);
            client.write_all(&out).await.unwrap();
        }
    })
    .await;
    messages
}

fn wire_startup(out: &mut Vec<u8>, user: &str) {
    crate::wire::startup::write_startup(
        out,
        crate::wire::startup::Version::NEWEST,
        &[(b"user", user.as_bytes()), (b"database", b"nowhere")],
    );
}

#[tokio::test]
async fn an_unknown_user_cannot_be_told_from_a_wrong_password_pooling_46() {
    for (auth_type, known) in [
        (AuthType::Plain, &["plain", "md5", "scram", "none"][..]),
        (AuthType::Md5, &["plain", "md5", "none"]),
        (AuthType::ScramSha256, &["plain", "md5", "scram", "none"]),
    ] {
        let config = config(auth_type);
        let unknown = refusal(&config, "nobody").await;
        assert!(unknown.len() >= 2, "{unknown:?}");
        for user in known {
            assert_eq!(refusal(&config, user).await, unknown, "{auth_type:?} {user}");
        }
    }
    // Where all secrets are SCRAM secrets, md5 is never asked for.
    let mut config = config(AuthType::Md5);
    config.users.retain(|name, _| name == "scram");
    assert_eq!(refusal(&config, "nobody").await, refusal(&config, "scram").await);
}

#[tokio::test]
async fn the_salt_of_a_user_stays_the_same() {
    let config = config(AuthType::ScramSha256);
    for user in ["plain", "nobody", "scram"] {
        let salt = async || {
            let (_, messages) = meet(&config, async |mut client: UnixStream| {
                let mut out = Vec::new();
                wire_startup(&mut out, user);
                encode::password(&mut out, b"SCRAM-SHA-256\0\0\0\0\x0bn,,n=,r=abc");
                client.write_all(&out).await.unwrap();
                client.shutdown().await.unwrap();
                let mut answer = Vec::new();
                client.read_to_end(&mut answer).await.unwrap();
                String::from_utf8_lossy(&answer).split_once(",s=").unwrap().1.to_owned()
            })
            .await;
            messages
        };
        assert_eq!(salt().await, salt().await, "{user}");
    }
}

/// Splits an answer at its `ErrorResponse` and returns what is before it, the code and the message.
fn error(answer: &[u8]) -> (Vec<u8>, String) {
    let Some(at) = answer.windows(7).position(|at| at[0] == b'E' && at[5..] == *b"SF") else {
        return (answer.to_vec(), String::new());
    };
    let fields: Vec<_> = answer[at + 5..].split(|byte| *byte == 0).collect();
    let find = |field: u8| {
        let field = fields.iter().find_map(|text| text.strip_prefix(&[field])).unwrap();
        String::from_utf8_lossy(field).into_owned()
    };
    assert_eq!(find(b'V'), "FATAL");
    (answer[..at].to_vec(), format!("{} {}", find(b'C'), find(b'M')))
}

fn startup(list: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode::untagged(&mut out, |out| {
        out.extend_from_slice(&[0, 3, 0, 0]);
        out.extend_from_slice(list);
    });
    out
}

#[tokio::test]
async fn broken_openings_end_as_in_postgresql() {
    let config = config(AuthType::Trust);
    let unsupported = "0A000 unsupported frontend protocol";
    let check = async |bytes: &[u8], before: &[u8], expected: &str| {
        let (accepted, answer) = answer(&config, bytes).await;
        assert!(matches!(accepted, Accepted::Gone));
        let (answered, error) = error(&answer);
        assert_eq!((&answered[..], &error[..]), (before, expected), "{}", bytes.escape_ascii());
    };
    // No answer to what is not PostgreSQL.
    check(b"GET / HTTP/1.1\r\n\r\n", b"", "").await;
    check(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3], b"", "").await;
    check(&10_005_i32.to_be_bytes(), b"", "").await;
    check(&[0, 0, 0, 7, 0, 3, 0], b"", "").await;
    check(&[0, 0, 0, 12, 4, 210, 22, 46, 0, 0, 0, 1], b"", "").await;
    let versions = "server supports 3.0 to 3.2";
    check(&[0, 0, 0, 8, 0, 2, 0, 0], b"", &format!("{unsupported} 2.0: {versions}")).await;
    check(&[0, 0, 0, 8, 0, 4, 0, 0], b"", &format!("{unsupported} 4.0: {versions}")).await;
    check(
        &startup(b"user\0u\0"),
        b"",
        "08P01 invalid startup packet layout: expected terminator as last byte",
    )
    .await;
    let no_user = "28000 no PostgreSQL user name specified in startup packet";
    check(&startup(b"\0"), b"", no_user).await;
    check(&startup(b"user\0\0\0"), b"", no_user).await;
    check(&startup(b"_pq_.x\0\0\0"), b"v\0\0\0\x13\0\x03\0\0\0\0\0\x01_pq_.x\0", no_user).await;
    let encoding = "22021 invalid byte sequence for encoding \"UTF8\" in";
    check(&startup(b"user\0\xff\0\0"), b"", &format!("{encoding} user name")).await;
    check(&startup(b"user\0u\0database\0\xc3\0\0"), b"", &format!("{encoding} database name"))
        .await;
    let bad = "22023 invalid value for parameter \"replication\": \"o\"";
    check(&startup(b"user\0u\0replication\0o\0\0"), b"", bad).await;
    let plaintext = "08P01 received unencrypted data after";
    check(&[SSL_REQUEST, STARTUP].concat(), b"N", &format!("{plaintext} SSL request")).await;
    check(
        &[GSSENC_REQUEST, STARTUP].concat(),
        b"N",
        &format!("{plaintext} GSSAPI encryption request"),
    )
    .await;
    check(
        &startup(b"user\0u\0database\0nowhere\0\0"),
        AUTHENTICATION_OK,
        "3D000 database \"nowhere\" does not exist",
    )
    .await;
}

#[tokio::test]
async fn encryption_is_refused_once_per_kind() {
    let config = config(AuthType::Trust);
    let run = async |packets: &[&[u8]]| {
        let (accepted, answers) = meet(&config, async |mut client: UnixStream| {
            let mut answers = Vec::new();
            for packet in packets {
                client.write_all(packet).await.unwrap();
                if packet.len() == SSL_REQUEST.len() {
                    answers.push(client.read_u8().await.unwrap());
                }
            }
            answers
        })
        .await;
        (matches!(accepted, Accepted::Login(_)), answers)
    };
    assert_eq!(run(&[SSL_REQUEST, STARTUP]).await, (true, b"N".to_vec()));
    assert_eq!(run(&[GSSENC_REQUEST, STARTUP]).await, (true, b"N".to_vec()));
    assert_eq!(run(&[GSSENC_REQUEST, SSL_REQUEST, STARTUP]).await, (true, b"NN".to_vec()));
    assert_eq!(run(&[SSL_REQUEST, GSSENC_REQUEST, STARTUP]).await, (true, b"NN".to_vec()));
    // The third answer is the first byte of an ErrorResponse.
    assert_eq!(run(&[SSL_REQUEST, GSSENC_REQUEST, SSL_REQUEST]).await, (false, b"NNE".to_vec()));
    assert_eq!(run(&[SSL_REQUEST, SSL_REQUEST]).await, (false, b"NE".to_vec()));
}

#[tokio::test]
async fn a_cancel_request_is_handed_over_without_an_answer() {
    let mut config = config(AuthType::ScramSha256);
    config.general.max_client_conn = 0;
    let mut out = Vec::new();
    crate::wire::startup::write_cancel(&mut out, -7, &[1, 2, 3, 4]);
    let (accepted, answer) = answer(&config, &out).await;
    let Accepted::Cancel { pid, secret, .. } = accepted else { panic!("{accepted:?}") };
    assert_eq!((pid, &secret[..], &answer[..]), (-7, &[1, 2, 3, 4][..], &b""[..]));
}

#[tokio::test]
async fn one_negotiation_and_the_rest_of_the_startup_message_pooling_43() {
    let config = config(AuthType::Trust);
    let mut out = Vec::new();
    encode::untagged(&mut out, |out| {
        out.extend_from_slice(&[0, 3, 39, 15]);
        out.extend_from_slice(
            b"user\0u\0_pq_.a\0\0TimeZone\0UTC\0database\0x\0options\0-c a=b\0TimeZone\0CET\0\
              database\0d\0replication\0false\0\0",
        );
    });
    encode::query(&mut out, b"SELECT 1");
    let (accepted, _) = answer(&config, &out).await;
    let Accepted::Login(authenticated) = accepted else { panic!("{accepted:?}") };
    let negotiation = b"v\0\0\0\x13\0\x03\0\x02\0\0\0\x01_pq_.a\0";
    assert_eq!(authenticated.greeting, [negotiation, AUTHENTICATION_OK].concat());
    assert_eq!((&authenticated.database[..], &authenticated.user[..]), ("d", "u"));
    let parameters = [(&b"TimeZone"[..], &b"CET"[..]), (b"options", b"-c a=b")];
    let parameters = parameters.map(|(name, value)| (name.to_vec(), value.to_vec()));
    assert_eq!(authenticated.parameters, parameters);
    assert_eq!(authenticated.unread, b"Q\0\0\0\x0dSELECT 1\0");
}

#[tokio::test]
async fn the_database_is_named_like_the_user_unless_given() {
    let mut config = config(AuthType::Trust);
    let database: Database = config.databases["d"].clone();
    config.databases.insert("u".to_owned(), database);
    let (accepted, _) = answer(&config, &startup(b"user\0u\0\0")).await;
    let Accepted::Login(authenticated) = accepted else { panic!("{accepted:?}") };
    assert_eq!(authenticated.database, "u");
}

#[tokio::test]
async fn any_split_of_the_bytes_logs_in() {
    let mut config = config(AuthType::Plain);
    config.users.insert("u".to_owned(), config.users["plain"].clone());
    let mut bytes = STARTUP.to_vec();
    encode::password(&mut bytes, format!("{PASSWORD}\0").as_bytes());
    encode::query(&mut bytes, b"");
    let check = async |chunk: usize| {
        let (accepted, _client) = meet(&config, async |mut client: UnixStream| {
            for bytes in bytes.chunks(chunk) {
                client.write_all(bytes).await.unwrap();
                tokio::task::yield_now().await;
            }
            client
        })
        .await;
        let Accepted::Login(mut authenticated) = accepted else { panic!("{accepted:?}") };
        assert_eq!(authenticated.greeting, AUTHENTICATION_OK, "the request was sent before");
        let mut rest = vec![0; b"Q\0\0\0\x05\0".len() - authenticated.unread.len()];
        authenticated.stream.read_exact(&mut rest).await.unwrap();
        assert_eq!([authenticated.unread, rest].concat(), b"Q\0\0\0\x05\0");
    };
    for chunk in 1..=bytes.len() {
        check(chunk).await;
    }
}

#[tokio::test]
async fn broken_proofs_end_as_in_postgresql() {
    let check = async |auth_type, message: &dyn Fn(&mut Vec<u8>), expected: &str| {
        let mut bytes = STARTUP.to_vec();
        message(&mut bytes);
        let (accepted, answer) = answer(&config(auth_type), &bytes).await;
        assert!(matches!(accepted, Accepted::Gone));
        assert_eq!(error(&answer).1, expected, "{}", bytes.escape_ascii());
    };
    let plain = async |message: &dyn Fn(&mut Vec<u8>), expected: &str| {
        check(AuthType::Plain, message, expected).await;
    };
    let scram = async |body: &[u8], expected: &str| {
        check(AuthType::ScramSha256, &|out| encode::password(out, body), expected).await;
    };
    let denied = "28P01 password authentication failed for user \"u\"";
    plain(&|out| encode::password(out, b"x\0"), denied).await;
    plain(&|out| encode::password(out, b"\0"), denied).await;
    plain(&|out| encode::password(out, &[&[b'x'; 8191][..], b"\0"].concat()), denied).await;
    plain(
        &|out| encode::password(out, &[&[b'x'; 8192][..], b"\0"].concat()),
        "08P01 password response has a bad length of 8197 bytes",
    )
    .await;
    plain(
        &|out| out.extend_from_slice(b"p\0\0\0\x03..."),
        "08P01 password response has a bad length of 3 bytes",
    )
    .await;
    for body in [&b""[..], b"x", b"x\0\0", b"x\0y\0"] {
        plain(&|out| encode::password(out, body), "08P01 malformed password response").await;
    }
    plain(
        &|out| encode::query(out, b"SELECT 1"),
        "08P01 expected password response, got message type 81",
    )
    .await;
    plain(&|out| encode::message(out, frontend::TERMINATE, |_| ()), "").await;
    let mechanism = "08P01 client selected an invalid SASL authentication mechanism";
    scram(b"SCRAM-SHA-256-PLUS\0\0\0\0\0", mechanism).await;
    scram(b"\0", mechanism).await;
    for body in [&b""[..], b"SCRAM-SHA-256\0\xff\xff\xff\xff", b"SCRAM-SHA-256\0\0\0\0\x02x"] {
        scram(body, "08P01 malformed SASL response").await;
    }
    scram(b"SCRAM-SHA-256\0\0\0\0\x02xy", "08P01 malformed SCRAM message").await;
}

#[tokio::test]
async fn a_client_too_many_is_told_and_places_come_back() {
    let mut config = config(AuthType::Trust);
    config.general.max_client_conn = 1;
    let admission = Admission::new();
    let connect = async || {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(STARTUP).await.unwrap();
        let acceptor = no_tls();
        let ours = accept(ours, &config, &acceptor, &admission);
        let mut answer = Vec::new();
        tokio::select! {
            accepted = ours => (accepted, answer),
            _ = theirs.read_to_end(&mut answer) => (Accepted::Gone, answer),
        }
    };
    let (first, _) = connect().await;
    assert!(matches!(first, Accepted::Login(_)));
    let (second, answer) = connect().await;
    assert!(matches!(second, Accepted::Gone));
    assert_eq!(error(&answer).1, "53300 sorry, too many clients already");
    drop(first);
    let (third, _) = connect().await;
    assert!(matches!(third, Accepted::Login(_)));
    assert_eq!(admission.clients(), 1);
}

#[tokio::test]
async fn a_login_takes_no_longer_than_its_timeout_pooling_45() {
    let mut config = config(AuthType::Plain);
    config.general.client_login_timeout = Some(Duration::from_millis(20));
    for (bytes, expected) in [
        (&b""[..], ""),
        (&STARTUP[..10], ""),
        (STARTUP, "57014 canceling authentication due to timeout"),
    ] {
        let (accepted, answer) = answer(&config, bytes).await;
        assert!(matches!(accepted, Accepted::Gone));
        assert_eq!(error(&answer).1, expected);
    }
}

#[tokio::test]
async fn a_client_that_leaves_gets_no_answer() {
    let config = config(AuthType::Plain);
    for bytes in [&b""[..], &STARTUP[..2], &STARTUP[..10], STARTUP] {
        let (accepted, ()) = meet(&config, async |mut client: UnixStream| {
            client.write_all(bytes).await.unwrap();
        })
        .await;
        assert!(matches!(accepted, Accepted::Gone));
    }
}

/// Bytes made of the pieces of real logins, so that they get past the first check.
fn near_logins() -> impl Strategy<Value = Vec<u8>> {
    let mut password = Vec::new();
    encode::password(&mut password, b"SCRAM-SHA-256\0\0\0\0\x0bn,,n=,r=abc");
    let piece = prop_oneof![
        Just(SSL_REQUEST.to_vec()),
        Just(STARTUP.to_vec()),
        Just(startup(b"user\0plain\0database\0d\0\0")),
        Just(password),
        proptest::collection::vec(any::<u8>(), 0..20),
        proptest::collection::vec(any::<u8>(), 0..2000).prop_map(|body| startup(&body)),
    ];
    proptest::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_input_panics_or_gets_in_without_a_proof(bytes in near_logins(), plain: bool) {
        let config = config(if plain { AuthType::Plain } else { AuthType::ScramSha256 });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let accepted = runtime.block_on(async {
            let send = async |mut client: UnixStream| {
                // Whoever is refused early may not be read to the end.
                client.write_all(&bytes).await.ok();
                client.shutdown().await.ok();
                client.read_to_end(&mut Vec::new()).await.ok();
            };
            meet(&config, send).await.0
        });
        prop_assert!(!matches!(accepted, Accepted::Login(_)));
    }
}
