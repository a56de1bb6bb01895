use proptest::prelude::*;

use super::*;

// RFC 7677, section 3.
const PASSWORD: &[u8] = b"pencil";
const CLIENT_NONCE: &str = "rOprNGfwEbeRWgbNEkqO";
const SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
const SALT: &str = "W22ZaJ0SNY7soEsUEjb6gQ==";
const CLIENT_FIRST: &[u8] = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
const SERVER_FIRST: &[u8] = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
    s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
const CLIENT_FINAL: &[u8] = b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
    p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
const SERVER_FINAL: &[u8] = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

fn salt() -> Vec<u8> {
    BASE64.decode(SALT).unwrap()
}

fn secret() -> ScramSecret {
    ScramSecret::from_password(PASSWORD, &salt(), 4096)
}

fn server() -> ServerExchange {
    ServerExchange::new(secret(), true, SERVER_NONCE.to_owned())
}

/// A secret that costs nothing to derive.
fn cheap(password: &[u8]) -> ScramSecret {
    ScramSecret::from_password(password, b"salt", 1)
}

fn client(credential: ClientCredential) -> ClientExchange {
    ClientExchange::new(credential, CLIENT_NONCE.to_owned())
}

fn by_password(password: &[u8]) -> ClientCredential {
    ClientCredential::Password(Secret::new(password))
}

/// Runs both sides against each other; returns the keys that the server learned.
fn exchange(
    secret: ScramSecret,
    genuine: bool,
    credential: ClientCredential,
) -> Result<ClientKeys, ScramError> {
    let mut server = ServerExchange::new(secret, genuine, nonce());
    let mut client = ClientExchange::new(credential, nonce());
    let client_final = client.last(&server.first(&client.first())?)?;
    let (server_final, keys) = server.last(&client_final)?;
    client.verify(&server_final)?;
    Ok(keys)
}

#[test]
fn server_side_of_rfc_7677() {
    let mut server = server();
    assert_eq!(server.first(CLIENT_FIRST).unwrap(), SERVER_FIRST);
    let (server_final, keys) = server.last(CLIENT_FINAL).unwrap();
    assert_eq!(server_final, SERVER_FINAL);
    assert_eq!(sha256(&keys.client_key), secret().stored_key);
    assert_eq!(keys.server_key, secret().server_key);
}

#[test]
fn client_side_agrees_with_an_independent_implementation() {
    use postgres_protocol::authentication::sasl;
    // The vector of RFC 7677 names a user in client-first-message, which we never do; so this
    // side is checked against another implementation that was given the same server.
    let mut theirs = sasl::ScramSha256::new(PASSWORD, sasl::ChannelBinding::unsupported());
    let their_nonce =
        std::str::from_utf8(theirs.message()).unwrap().strip_prefix("n,,n=,r=").unwrap().to_owned();
    let mut ours = ClientExchange::new(by_password(PASSWORD), their_nonce);
    assert_eq!(ours.first(), theirs.message());
    let mut server = server();
    let server_first = server.first(&ours.first()).unwrap();
    theirs.update(&server_first).unwrap();
    let client_final = ours.last(&server_first).unwrap();
    assert_eq!(client_final, theirs.message());
    let (server_final, _) = server.last(&client_final).unwrap();
    theirs.finish(&server_final).unwrap();
    ours.verify(&server_final).unwrap();
}

#[test]
fn stored_form_is_read_and_written() {
    let text = secret().to_string();
    assert_eq!(
        text,
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==\
         $WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=\
         :wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
    );
    assert_eq!(ScramSecret::parse(text.as_bytes()), Some(secret()));
}

#[test]
fn bad_stored_forms_are_refused() {
    let good = secret().to_string();
    for (from, to) in [
        ("SHA-256", "SHA-1"),
        ("$4096", "$0"),
        ("$4096", "$-1"),
        ("$4096", "$+1"),
        ("$4096", "$"),
        ("$4096", "$99999999999"),
        ("==$", "$"),
        ("qY=", "qY"),
        ("WG5d", ""),
        ("2dU=", "2dU=:"),
        (":wfPL", "wfPL"),
    ] {
        let bad = good.replacen(from, to, 1);
        assert_ne!(bad, good);
        assert_eq!(ScramSecret::parse(bad.as_bytes()), None, "{bad}");
    }
}

#[test]
fn a_password_logs_in_and_teaches_keys_that_log_in_anywhere() {
    let keys = exchange(cheap(b"pencil"), true, by_password(b"pencil")).unwrap();
    // Salt and iterations of the secret do not matter to keys.
    let again = exchange(cheap(b"pencil"), true, ClientCredential::Keys(keys.clone())).unwrap();
    assert_eq!(again.client_key, keys.client_key);
    let mut renumbered = cheap(b"pencil");
    renumbered.iterations = u32::MAX >> 1;
    renumbered.salt = b"other".to_vec();
    exchange(renumbered, true, ClientCredential::Keys(keys)).unwrap();
}

#[test]
fn wrong_passwords_keys_and_users_are_refused() {
    let wrong = Err(ScramError::WrongProof);
    let outcome = |secret, genuine, credential| exchange(secret, genuine, credential).map(drop);
    assert_eq!(outcome(cheap(b"a"), true, by_password(b"b")), wrong);
    assert_eq!(outcome(cheap(b"a"), true, by_password(b"")), wrong);
    assert_eq!(outcome(cheap(b"a"), false, by_password(b"a")), wrong);
    let keys = ClientKeys { client_key: [7; 32], server_key: cheap(b"a").server_key };
    assert_eq!(outcome(cheap(b"a"), true, ClientCredential::Keys(keys)), wrong);
    let mock = ScramSecret::mock(b"nobody", &[1; 32]);
    assert_eq!(outcome(mock.clone(), true, by_password(b"a")), wrong);
    assert_eq!(outcome(mock, false, by_password(b"a")), wrong);
}

#[test]
fn mock_secrets_are_stable_and_told_apart_by_user_and_process() {
    let mock = |user: &[u8], process: u8| ScramSecret::mock(user, &[process; 32]);
    assert_eq!(mock(b"a", 1), mock(b"a", 1));
    assert_ne!(mock(b"a", 1).salt, mock(b"b", 1).salt);
    assert_ne!(mock(b"a", 1).salt, mock(b"a", 2).salt);
    assert_eq!(mock(b"a", 1).salt.len(), 16);
    assert_eq!(mock(b"a", 1).iterations, 4096);
}

#[test]
fn client_first_is_checked() {
    let check = |message: &[u8], expected: Result<(), ScramError>| {
        let mut server = ServerExchange::new(cheap(b"a"), true, SERVER_NONCE.to_owned());
        assert_eq!(
            server.first(message).map(drop),
            expected,
            "{}",
            String::from_utf8_lossy(message)
        );
    };
    let malformed = |what| Err(ScramError::Malformed { what });
    check(b"n,,n=,r=abc", Ok(()));
    check(b"y,,n=user,r=abc", Ok(()));
    check(b"n,,n=us=2Cer,r=abc,x=ignored,y=", Ok(()));
    check(b"p=tls-server-end-point,,n=,r=abc", Err(ScramError::ChannelBinding));
    check(b"n,a=root,n=,r=abc", Err(ScramError::AuthorizationIdentity));
    check(b"n,,m=x,n=,r=abc", Err(ScramError::Extension));
    check(b"n,,n=,r=abc,m=x", Err(ScramError::Extension));
    check(b"", malformed("gs2 header"));
    check(b"n", malformed("gs2 header"));
    check(b"n,", malformed("gs2 header"));
    check(b"x,,n=,r=abc", malformed("gs2 header"));
    check(b"p,,n=,r=abc", malformed("gs2 header"));
    check(b"n,b,n=,r=abc", malformed("gs2 header"));
    check(b"n,,", malformed("attribute"));
    check(b"n,,n=", malformed("order of attributes"));
    check(b"n,,r=abc", malformed("order of attributes"));
    check(b"n,,n=,r=", malformed("nonce"));
    check(b"n,,n=,r=a b", malformed("nonce"));
    check("n,,n=,r=ä".as_bytes(), malformed("nonce"));
    check(b"n,,n=,r=abc,", malformed("attribute"));
    check(b"n,,n=a\0b,r=abc", malformed("attribute"));
    let long = [b"n,,n=,r=", &[b'a'; 1017][..]].concat();
    check(&long, Err(ScramError::TooLong { len: 1025, max: 1024 }));
}

#[test]
fn client_final_is_checked() {
    let check = |from: &str, to: &str, expected: ScramError| {
        let mut server = server();
        server.first(CLIENT_FIRST).unwrap();
        let message = std::str::from_utf8(CLIENT_FINAL).unwrap().replacen(from, to, 1);
        assert_eq!(server.last(message.as_bytes()).map(drop), Err(expected), "{message}");
    };
    let malformed = |what| ScramError::Malformed { what };
    check("c=biws", "c=eSws", ScramError::ChannelBinding);
    check("c=biws,", "", malformed("order of attributes"));
    check("r=rOpr", "r=xOpr", ScramError::Nonce);
    check("hNlF$k0", "hNlF$k", ScramError::Nonce);
    check("hNlF$k0", "hNlF$k0,m=1", ScramError::Extension);
    check(",p=", ",q=", malformed("proof"));
    check("VQ=", "VQ", malformed("proof"));
    check("VQ=", "VQ=,x=1", malformed("proof"));
    check("p=dHzb", "p=", malformed("proof"));
    check("p=dHzb", "p=dHzc", ScramError::WrongProof);
    // An extension is signed like everything else, so this one invalidates the proof.
    check("hNlF$k0", "hNlF$k0,x=1", ScramError::WrongProof);
    assert_eq!(server().last(CLIENT_FINAL).map(drop), Err(ScramError::OutOfOrder));
}

#[test]
fn server_first_is_checked() {
    let check = |message: &str, expected: Result<(), ScramError>| {
        let outcome = client(by_password(b"a")).last(message.as_bytes());
        assert_eq!(outcome.map(drop), expected, "{message}");
    };
    let malformed = |what| Err(ScramError::Malformed { what });
    let nonce = format!("{CLIENT_NONCE}xyz");
    check(&format!("r={nonce},s=AAAA,i=1"), Ok(()));
    check(&format!("r={nonce},s=AAAA,i=1,x=later"), Ok(()));
    check(&format!("r={CLIENT_NONCE},s=AAAA,i=1"), Err(ScramError::Nonce));
    check("r=else,s=AAAA,i=1", Err(ScramError::Nonce));
    check(&format!("m=x,r={nonce},s=AAAA,i=1"), Err(ScramError::Extension));
    check(&format!("r={nonce},s=A,i=1"), malformed("salt"));
    for count in ["0", "-1", "+1", "", "x", "2147483648", "99999999999999999999"] {
        check(&format!("r={nonce},s=AAAA,i={count}"), malformed("iteration count"));
    }
    let iterations = 1_000_001;
    check(
        &format!("r={nonce},s=AAAA,i={iterations}"),
        Err(ScramError::TooManyIterations { iterations }),
    );
    check(&format!("r={nonce},i=1,s=AAAA"), malformed("order of attributes"));
    check("", malformed("attribute"));
    check("r=\u{e9},s=AAAA,i=1", malformed("nonce"));
    let long = format!("r={},s=AAAA,i=1", "a".repeat(2000));
    check(&long, Err(ScramError::TooLong { len: long.len(), max: 2000 }));
}

#[test]
fn server_final_is_checked() {
    let check = |message: &[u8], expected: ScramError| {
        let mut client = client(by_password(PASSWORD));
        client.last(SERVER_FIRST).unwrap();
        assert_eq!(client.verify(message), Err(expected));
    };
    // Signed for a client-first-message with a name in it, so not for us.
    check(SERVER_FINAL, ScramError::WrongSignature);
    check(b"e=invalid-proof", ScramError::Refused);
    check(b"v=", ScramError::Malformed { what: "signature" });
    check(b"v=AAAA", ScramError::Malformed { what: "signature" });
    check(b"", ScramError::Malformed { what: "attribute" });
    assert_eq!(client(by_password(b"a")).verify(SERVER_FINAL), Err(ScramError::OutOfOrder));
}

#[test]
fn nonces_are_printable_and_differ() {
    assert!(grammar::is_nonce(nonce().as_bytes()));
    assert_eq!(nonce().len(), 24);
    assert_ne!(nonce(), nonce());
}

#[test]
fn failures_have_the_code_of_postgresql() {
    assert_eq!(ScramError::WrongProof.sqlstate(), SqlState::INVALID_PASSWORD);
    assert_eq!(ScramError::Nonce.sqlstate(), SqlState::PROTOCOL_VIOLATION);
    assert_eq!(ScramError::AuthorizationIdentity.sqlstate(), SqlState::FEATURE_NOT_SUPPORTED);
}

/// Text made of the pieces of real messages, so that it gets past the first check.
fn near_messages() -> impl Strategy<Value = Vec<u8>> {
    let piece = proptest::sample::select(vec![
        &b"n,,"[..],
        b"n=",
        b",",
        b"r=",
        CLIENT_NONCE.as_bytes(),
        SERVER_NONCE.as_bytes(),
        b",s=AAAA",
        b",i=3",
        b"c=biws",
        b",p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
        SERVER_FINAL,
        b"\0\xff=",
    ]);
    proptest::collection::vec(piece, 0..10).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_input_panics(a in near_messages(), b in near_messages(), raw: Vec<u8>) {
        for message in [&a, &b, &raw] {
            ScramSecret::parse(message);
            let mut server = ServerExchange::new(cheap(b"a"), true, SERVER_NONCE.to_owned());
            let _ = server.first(message);
            let _ = server.last(&b);
            let mut server = ServerExchange::new(cheap(b"a"), true, SERVER_NONCE.to_owned());
            server.first(CLIENT_FIRST).unwrap();
            prop_assert!(server.last(message).is_err());
            let mut client = client(by_password(b"a"));
            let _ = client.last(message);
            prop_assert!(client.verify(&b).is_err());
        }
    }

    #[test]
    fn only_the_same_password_logs_in(left: Vec<u8>, right: Vec<u8>) {
        let same = prepare::password(&left) == prepare::password(&right);
        prop_assert_eq!(exchange(cheap(&left), true, by_password(&right)).is_ok(), same);
        prop_assert!(exchange(cheap(&left), true, by_password(&left)).is_ok());
    }

    #[test]
    fn stored_form_round_trips(password: Vec<u8>, salt: Vec<u8>, iterations in 1_u32..5) {
        let secret = ScramSecret::from_password(&password, &salt, iterations);
        prop_assert_eq!(ScramSecret::parse(secret.to_string().as_bytes()), Some(secret));
    }
}

/// Runs both sides with channel binding.
fn bound(offer: Offer, binding: Binding) -> Result<ClientKeys, ScramError> {
    let mut server = ServerExchange::new(cheap(b"a"), true, nonce()).with_offer(offer);
    let mut client = client(by_password(b"a")).with_binding(binding);
    let client_final = client.last(&server.first(&client.first())?)?;
    let (server_final, keys) = server.last(&client_final)?;
    client.verify(&server_final)?;
    Ok(keys)
}

#[test]
fn proofs_are_bound_to_the_connection() {
    let data = || Arc::from(&b"hash of a certificate"[..]);
    let other = || Arc::from(&b"hash of another one"[..]);
    let check = |offer: Offer, binding: Binding, expected: Result<(), ScramError>| {
        let told = format!("{offer:?} {binding:?}");
        assert_eq!(bound(offer, binding).map(drop), expected, "{told}");
    };
    let missing = || Err(ScramError::Malformed { what: "channel binding is missing" });
    check(Offer::Chosen(data()), Binding::EndPoint(data()), Ok(()));
    // Somebody in between has another certificate.
    check(Offer::Chosen(data()), Binding::EndPoint(other()), Err(ScramError::BindingMismatch));
    // Somebody in between has taken the offer away.
    check(Offer::Declined, Binding::NotOffered, Err(ScramError::Downgrade));
    check(Offer::Declined, Binding::Unsupported, Ok(()));
    check(Offer::Nothing, Binding::NotOffered, Ok(()));
    check(Offer::Nothing, Binding::Unsupported, Ok(()));
    check(Offer::Chosen(data()), Binding::Unsupported, missing());
    check(Offer::Chosen(data()), Binding::NotOffered, missing());
    for offer in [Offer::Nothing, Offer::Declined] {
        check(offer, Binding::EndPoint(data()), Err(ScramError::ChannelBinding));
    }
    let mut server =
        ServerExchange::new(cheap(b"a"), true, nonce()).with_offer(Offer::Chosen(data()));
    let other_type = server.first(b"p=tls-unique,,n=,r=abc");
    assert_eq!(other_type, Err(ScramError::BindingType));
    assert_eq!(ScramError::Downgrade.sqlstate(), SqlState::INVALID_AUTHORIZATION);
    assert_eq!(ScramError::BindingMismatch.sqlstate(), SqlState::INVALID_AUTHORIZATION);
    assert_eq!(ScramError::BindingType.sqlstate(), SqlState::PROTOCOL_VIOLATION);
}

#[test]
fn a_bound_proof_gives_the_same_keys_away() {
    let data = || Arc::from(&b"hash"[..]);
    let bound = bound(Offer::Chosen(data()), Binding::EndPoint(data())).unwrap();
    let plain = exchange(cheap(b"a"), true, by_password(b"a")).unwrap();
    assert!(bound.client_key == plain.client_key && bound.server_key == plain.server_key);
    let again = exchange(cheap(b"a"), true, ClientCredential::Keys(bound));
    assert!(again.is_ok(), "what was learned with a binding opens servers without");
}
