use super::*;

mod model;
mod random;

/// An [`Expect`] that is driven by a script.
///
/// A script is a list of words. Behind `>` they are messages of the client, by their tag, with `c`
/// for CopyDone or CopyFail and `d` for CopyData; behind `<` they are messages of the server, by their tag, and `Zi`,
/// `Zt`, `Ze` for ReadyForQuery. A client's message may end in `-` (we swallow its reply), `~` (we
/// answer it) or `*` (its error is replaced); a server's in `-` (must be dropped) or `*` (must be
/// replaced). A client's `~` under `<` stands for the moment at which we answer.
#[derive(Default)]
struct Scripted {
    expect: Expect<usize>,
    pushed: usize,
    undone: Vec<(usize, bool)>,
}

impl Scripted {
    fn run(script: &str) -> Self {
        let mut scripted = Self::default();
        scripted.go_on(script);
        scripted
    }

    fn go_on(&mut self, script: &str) {
        let mut is_client = true;
        for word in script.split_whitespace() {
            match word {
                ">" => is_client = true,
                "<" => is_client = false,
                _ if is_client => self.client(word),
                _ => self.server(word),
            }
        }
    }

    fn client(&mut self, word: &str) {
        if word == "d" {
            return self.expect.data_sent();
        }
        let awaited = match word.as_bytes()[0] {
            b'P' => Awaited::Parse,
            b'B' => Awaited::Bind,
            b'D' => Awaited::Describe,
            b'E' => Awaited::Execute,
            b'C' => Awaited::Close,
            b'S' => Awaited::Sync,
            b'Q' => Awaited::Query,
            b'F' => Awaited::FunctionCall,
            b'c' => Awaited::CopyEnd,
            other => panic!("no such client message: {}", char::from(other)),
        };
        let reply = match word.as_bytes().get(1) {
            None => Reply::Forward,
            Some(b'-') => Reply::Swallow,
            Some(b'~') => Reply::Synthesize,
            Some(b'*') => Reply::Replace((*b"replacement").into()),
            Some(other) => panic!("no such mark: {}", char::from(*other)),
        };
        self.expect.push(awaited, reply, self.pushed);
        self.pushed += 1;
    }

    fn server(&mut self, word: &str) {
        let (tag, mark) = match word.as_bytes() {
            [b'Z', status, mark @ ..] => {
                let status = TransactionStatus::from_byte(status.to_ascii_uppercase());
                let verdict = self.expect.ready(status.expect("a status"));
                return check_verdict(word, mark, &verdict.expect("awaited"));
            }
            [tag, mark @ ..] => (*tag, mark),
            [] => unreachable!("words are not empty"),
        };
        if mark == b"~" {
            let answered = self.expect.pop_synthesized();
            assert!(answered.is_some(), "{word} is not ours to answer now");
        } else if tag == backend::ERROR_RESPONSE {
            let undone = &mut self.undone;
            let verdict = self.expect.error(mark == b"*", |entry, has_failed| {
                undone.push((entry.effect, has_failed));
            });
            check_verdict(word, mark, &verdict);
        } else {
            check_verdict(word, mark, &self.expect.reply(tag).expect("awaited").0);
        }
    }

    /// The messages undone, by their number, in order; the one that failed has a `!`.
    fn undone(&self) -> String {
        let words: Vec<String> = self
            .undone
            .iter()
            .map(|(effect, has_failed)| format!("{effect}{}", if *has_failed { "!" } else { "" }))
            .collect();
        words.join(" ")
    }
}

fn check_verdict(word: &str, mark: &[u8], verdict: &Verdict) {
    let expected = match mark {
        b"" => Verdict::Forward,
        b"-" => Verdict::Drop,
        b"*" => Verdict::Replace((*b"replacement").into()),
        other => panic!("no such mark: {other:?}"),
    };
    assert_eq!(*verdict, expected, "{word}");
}

/// Runs a script at whose end everything is at rest, and that undid what `undone` says.
#[track_caller]
fn check(script: &str, undone: &str) {
    let end = Scripted::run(script);
    assert_eq!(end.undone(), undone, "{script}");
    assert!(end.expect.is_at_rest(), "{script}: {:?}", end.expect);
    assert!(!end.expect.is_tainted(), "{script}");
}

/// Runs a script at whose end something is still under way.
#[track_caller]
fn check_busy(script: &str) {
    let end = Scripted::run(script);
    assert!(!end.expect.is_at_rest(), "{script}");
}

#[track_caller]
fn check_desync(script: &str, tag: u8, awaited: Option<Awaited>) {
    let mut end = Scripted::run(script);
    let found = if tag == backend::READY_FOR_QUERY {
        end.expect.ready(TransactionStatus::Idle).map(|_| ())
    } else {
        end.expect.reply(tag).map(|_| ())
    };
    assert_eq!(found, Err(Desync { tag, awaited }), "{script}");
}

#[test]
fn every_message_is_completed_by_its_own_reply() {
    for script in [
        "> Q < T D D C Zi",
        "> Q < T D C T D C C I Zi",
        "> Q < I Zi",
        "> Q < E Zi",
        "> Q < T D E Zi",
        "> P B D E S < 1 2 T D D C Zi",
        "> P D S < 1 t n Zi",
        "> P D S < 1 t T Zi",
        "> B D E S < 2 n I Zi",
        "> E E S < D s D C Zi",
        "> C C S < 3 3 Zi",
        "> F < V Zi",
        "> F < E Zi",
        "> S S S < Zi Zi Zi",
        "> P B E Q < 1 2 C C Zi",
        "> Q Q Q < C Zi E Zi C Zi",
    ] {
        check(script, "");
    }
}

#[test]
fn a_prefix_is_not_at_rest() {
    for script in [
        "> Q",
        "> Q < T D C",
        "> Q Q < C Zi",
        "> P < ",
        "> P B E S < 1 2 C",
        "> P < 1",
        "> P B E < 1 2 C",
        "> C~ < 3~",
        "> B E < 2 G > S c < C",
        "> B E S c < 2 G C",
        "> P B E S < E",
        "> Q < C Zt",
        "> Q < E Ze",
        "> S < Zi > Q < C Zt",
        "> Q < G",
        "> Q < G > c",
        "> E < G > S c",
    ] {
        check_busy(script);
    }
}

#[test]
fn a01_an_error_takes_the_rest_of_the_segment_with_it() {
    check("> P B E S P B E S < 1 E Zi 1 2 C Zi", "2 1!");
    check("> P B E C C S < E Zi", "4 3 2 1 0!");
    // A Sync can fail too (a deferred constraint): that takes nothing with it.
    check("> P B E S P S < 1 2 C E Zi 1 Zi", "");
    // Query is skipped like everything else.
    check("> P Q F S < E Zi", "2 1 0!");
}

#[test]
fn a01_messages_behind_an_answered_error_are_skipped_up_to_sync() {
    let mut scripted = Scripted::run("> P B < E");
    assert!(scripted.expect.is_skipping());
    assert!(!scripted.expect.is_at_rest());
    scripted.go_on("> S");
    assert!(!scripted.expect.is_skipping());
    scripted.go_on("< Zi");
    assert!(scripted.expect.is_at_rest());
    assert_eq!(scripted.undone(), "1 0!");
}

#[test]
fn a06_synthesized_replies_wait_for_their_turn() {
    check("> P~ C~ S < 1~ 3~ Zi", "");
    check("> P C~ P S < 1 3~ 1 Zi", "");
    check("> P C~ S < E Zi", "1 0!");
    let mut early = Scripted::run("> P C~ S");
    assert_eq!(early.expect.pop_synthesized(), None);
}

#[test]
fn a07_replies_to_messages_of_ours_do_not_pass_but_errors_do() {
    check("> P- B E S < 1- 2 C Zi", "");
    check("> P- B E S < E Zi", "2 1 0!");
    check("> C- S < 3- Zi", "");
    check("> Q- Q < T- D- C- Zi- C Zi", "");
    let mut scripted = Scripted::run("> Q- Q < C-");
    assert!(scripted.expect.head_is_swallowed());
    scripted.go_on("< Zi-");
    assert!(!scripted.expect.head_is_swallowed());
}

#[test]
fn a04_an_error_that_was_provoked_is_replaced() {
    check("> B* E S < E* Zi", "1 0!");
    check("> P B* E S < 1 E* Zi", "2 1!");
    check("> P B* S < E Zi", "1 0!");
    // Some other error came in its place, such as the end of the server.
    check("> B* S < E Zi", "0!");
}

#[test]
fn a17_ready_with_more_in_flight_is_no_rest() {
    check_busy("> Q Q < C Zi");
    check_busy("> P S P < 1 Zi");
    check("> P S P S < 1 Zi 1 Zi", "");
}

#[test]
fn b18_a_transaction_is_no_rest() {
    check("> Q < C Zt > Q < E Ze > Q < C Zi", "");
    assert_eq!(Scripted::run("> Q < E Ze").expect.status(), TransactionStatus::Failed);
}

#[test]
fn e39_copy_in_of_a_query() {
    check("> Q < G > c < C Zi", "");
    check("> Q < G > c < E Zi", "");
    check("> Q < G E Zi", "");
    // The end of the data was on its way when the server failed.
    check("> Q < G > c < E Zi", "");
    check("> Q c < G C Zi", "");
    check("> Q c < E Zi", "");
    check("> Q c Q < G C Zi C Zi", "");
    // Two COPYs in one Query.
    check("> Q < G > c < C G > c < C Zi", "");
    check("> Q c c < G C G C Zi", "");
    check("> Q c < G C G > c < C Zi", "");
    // A stray CopyDone is ignored.
    check("> c", "");
    check("> Q c < C Zi", "");
}

#[test]
fn e39_copy_in_of_an_execute() {
    check("> B E < 2 G > c S < C Zi", "");
    check("> B E < 2 G > c < C > S < Zi", "");
    check("> B E c S < 2 G C Zi", "");
    check("> B E c S < E Zi", "2 1 0!");
    // A Sync that the server reads as part of the COPY is ignored.
    check("> B E S < 2 G > c S < C Zi", "");
    check("> B E < 2 G > S c S < C Zi", "");
    check("> B E S c S < 2 G C Zi", "");
    check("> B E S S < 2 G > S c S < C Zi", "");
    // A select that looks like the same.
    check("> B E c S < 2 D C Zi", "");
}

#[test]
fn e39_an_error_during_copy_in_skips_to_the_next_sync() {
    let mut scripted = Scripted::run("> B E < 2 G E");
    assert!(scripted.expect.is_skipping());
    assert!(!scripted.expect.is_copying_in());
    scripted.go_on("> S < Zi");
    assert!(scripted.expect.is_at_rest());
    assert!(!scripted.expect.is_tainted());
    check("> B E < 2 G > c S < E Zi", "1!");
}

/// Runs a script up to where the server is to be asked, asks, and goes on to the end.
#[track_caller]
fn check_asking(script: &str, answers: &str) {
    let mut scripted = Scripted::run(script);
    assert!(scripted.expect.must_ask(), "{script}");
    assert!(!scripted.expect.must_ask(), "once is enough");
    scripted.go_on("> S- C- S-");
    assert!(scripted.expect.is_in_doubt());
    scripted.go_on(answers);
    assert!(!scripted.expect.is_in_doubt(), "{script} {answers}");
    assert!(scripted.expect.is_at_rest(), "{script} {answers}: {:?}", scripted.expect);
    assert!(!scripted.expect.is_tainted(), "{script} {answers}");
}

#[test]
fn e39_a_copy_that_failed_may_have_read_the_sync() {
    // It has: the COPY ignored it.
    check_asking("> Q < G > S c < E Zi", "< Zi- 3- Zi-");
    check_asking("> B E S < 2 G > d S d S < E Zi", "< Zi- 3- Zi-");
    // It has not: it has a ReadyForQuery of its own. Which of two alike was asked for by whom is
    // no matter.
    check_asking("> Q < G > S d < E Zi", "< Zi- Zi 3- Zi-");
    check_asking("> Q S S c < G E Zi", "< Zi- Zi Zi 3- Zi-");
    check_asking("> B E S < 2 G > c S < E Zi", "< Zi- Zi 3- Zi-");
    // What else was sent tells it too.
    check("> Q S c Q < G E Zi C Zi", "");
    check("> Q S c Q < G E Zi Zi C Zi", "");
    check("> Q d S d Q d d c Q < G E Zi Zi G E Zi C Zi", "");
    check("> Q S d F < G E Zi Zi V Zi", "");
    check("> Q < G > d S Q c S c S < E Zi Zi G C Zi Zi Zi", "");
    check("> Q S c P S < G E Zi Zi 1 Zi", "");
    check("> Q S c P S < G E Zi Zi E Zi", "3!");
    check("> B E S c S Q < 2 G E Zi Zi C Zi", "1!");
    check("> B E S c S Q < 2 G E Zi C Zi", "1!");
}

#[test]
fn e39_a_sync_behind_all_data_is_answered() {
    check("> Q d S < G E Zi Zi", "");
    check("> Q < G > d S < E Zi Zi", "");
    check("> Q d S Q < G E Zi Zi C Zi", "");
    check("> B E d S < 2 G E Zi", "1!");
    check("> B E d S P S < 2 G E Zi 1 Zi", "1!");
    check("> B E < 2 G > d S P S < E Zi 1 Zi", "1!");
    check("> B E < 2 G > d S S < E Zi Zi", "1!");
    check("> B E S < 2 G E Zi", "1!");
}

#[test]
fn e39_behind_a_question_of_ours_the_client_is_skipped_in_the_servers_place() {
    let mut scripted = Scripted::run("> B E S < 2 G > d < E");
    assert!(scripted.expect.must_ask());
    scripted.go_on("> S- C- S- < Zi- 3- Zi-");
    assert!(scripted.expect.is_skipping());
    assert!(!scripted.expect.is_at_rest());
    scripted.go_on("> S < Zi");
    assert!(scripted.expect.is_at_rest());
    // The Sync counted.
    let mut scripted = Scripted::run("> B E S < 2 G > d < E");
    assert!(scripted.expect.must_ask());
    scripted.go_on("> S- C- S- < Zi- Zi 3- Zi-");
    assert!(scripted.expect.is_at_rest());
}

#[test]
fn a_ready_that_nobody_awaits_taints() {
    assert!(Scripted::run("< Zi").expect.is_tainted());
}

#[test]
fn e39_a_ready_nobody_awaits_ends_the_skipping() {
    let scripted = Scripted::run("> B E S < 2 G E Zi");
    assert!(!scripted.expect.is_skipping(), "the server does not skip: it answered a Sync");
    assert!(!scripted.expect.is_tainted());
}

#[test]
fn e39_a_finished_copy_leaves_no_doubt() {
    // The server ignored the Sync for certain, since the COPY was a success.
    check("> Q < G > S c < C Zi > Q < E Zi", "");
    check("> B E < 2 G > S c S < C Zi > Q < E Zi", "");
}

#[test]
fn copy_out_and_copy_both_pass() {
    check("> Q < H d d c C Zi", "");
    check("> B E S < 2 H d c C Zi", "");
    check("> Q < W d d > c < d c C Zi", "");
}

#[test]
fn replies_that_nothing_awaits_are_refused() {
    check_desync("", backend::COMMAND_COMPLETE, None);
    check_desync("> P", backend::BIND_COMPLETE, Some(Awaited::Parse));
    check_desync("> B", backend::PARSE_COMPLETE, Some(Awaited::Bind));
    check_desync("> Q", backend::PARSE_COMPLETE, Some(Awaited::Query));
    check_desync("> D", backend::COMMAND_COMPLETE, Some(Awaited::Describe));
    check_desync("> E", backend::ROW_DESCRIPTION, Some(Awaited::Execute));
    check_desync("> S", backend::DATA_ROW, Some(Awaited::Sync));
    check_desync("> F", backend::DATA_ROW, Some(Awaited::FunctionCall));
    check_desync("> P S", backend::READY_FOR_QUERY, Some(Awaited::Parse));
    check_desync("> Q", backend::AUTHENTICATION, Some(Awaited::Query));
    check_desync("> Q", backend::BACKEND_KEY_DATA, Some(Awaited::Query));
}

#[test]
fn the_number_of_awaited_replies_is_bounded() {
    let mut expect = Expect::default();
    for _ in 0..AWAITED_MAX {
        assert!(!expect.is_full());
        expect.push(Awaited::Parse, Reply::Forward, ());
    }
    assert!(expect.is_full());
    expect.reply(backend::PARSE_COMPLETE).expect("awaited");
    assert!(!expect.is_full());
}

#[test]
fn a08_answered_segments_cannot_fail_any_more() {
    for script in [
        "> P S < 1 Zi",
        "> P S P S < E Zi E Zi",
        "> P Q F S < E Zi",
        "> Q Q S < E Zi C Zi Zi",
        "> B E S < 2 G > S c S < C Zi",
        "> B E S c S < 2 G C Zi",
        "> B E < 2 G > S < E > S < Zi Zi",
        "> B E S < 2 G E Zi > S < Zi",
    ] {
        let scripted = Scripted::run(script);
        let segment = scripted.expect.segment();
        for earlier in 0..=segment {
            assert!(!scripted.expect.may_fail_yet(earlier), "{script}: {earlier} of {segment}");
        }
    }
    let scripted = Scripted::run("> P S P");
    assert!(scripted.expect.may_fail_yet(0));
    assert!(!scripted.expect.may_fail_yet(1), "its own segment");
}

#[test]
fn e41_an_error_that_nothing_awaits_taints() {
    // Whatever made the server fail, it is not in a state we know.
    let scripted = Scripted::run("< E");
    assert!(scripted.expect.is_tainted());
}
