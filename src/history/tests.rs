//! The rules of the history. The clock is a parameter: no test sleeps.

use super::*;

const COOLDOWN: Duration = Duration::from_secs(120);

/// A boot of the machine, and another one.
const BOOTS: [&str; 2] = ["0e5b1d38", "7ac0fe12"];

const SECOND: Moment = 1000;

fn change(name: &str) -> Command {
    Command::all().find(|command| command.name() == name).unwrap()
}

fn now(boot: &str, moment: Moment, time_of_day: i64) -> Now {
    Now { boot: boot.to_owned(), moment, time_of_day }
}

/// A moment of the first boot, on a clock that is set right.
fn at(moment: Moment) -> Now {
    now(BOOTS[0], moment, TODAY + moment)
}

fn asked(change: Command, delivery: Option<Delivery>) -> Asked {
    Asked { change, key: "API_KEY".to_owned(), delivery }
}

fn named(change: Command, id: &str) -> Asked {
    asked(change, Some(Delivery::Named(id.to_owned())))
}

fn alerts(change: Command, names: &[&str]) -> Asked {
    let alert = |name: &&str| Alert { fingerprint: (*name).to_owned(), since: 5, counts_from: 5 };
    asked(change, Some(Delivery::Alerts(names.iter().map(alert).collect())))
}

fn reply() -> Stored {
    Stored { status: 200, body: "{}".to_owned() }
}

/// A history of these, each made and answered at its second.
fn history(attempts: &[(Moment, Asked)]) -> History {
    let mut history = History::default();
    for (second, asked) in attempts {
        history.begin(asked.clone(), &at(second * SECOND));
        history.end(Ending::Sent(reply()), &at(second * SECOND));
    }
    history
}

#[test]
fn a_named_delivery_is_carried_out_once_in_ten_minutes() {
    let history = history(&[(1000, named(change("power on"), "a"))]);
    let mut other_sender = named(change("power on"), "a");
    other_sender.key = "ACCESS_OTHER_KEY".to_owned();
    for (again, now, expected) in [
        (named(change("power on"), "a"), 1000, Some(Objection::Answered(reply()))),
        (named(change("power on"), "a"), 1599, Some(Objection::Answered(reply()))),
        (named(change("power on"), "a"), 1600, None),
        (named(change("power on"), "b"), 1000, None),
        (named(change("power soft"), "a"), 1000, Some(Objection::NameTaken(change("power on")))),
        (other_sender, 1000, None),
        (asked(change("power on"), None), 1000, None),
    ] {
        assert_eq!(history.objection(&again, &at(now * SECOND), COOLDOWN), expected, "{again:?} at {now}");
    }
}

#[test]
fn what_was_begun_and_never_ended_is_not_begun_again() {
    let mut history = History::default();
    history.begin(named(change("power cycle"), "a"), &at(1000 * SECOND));
    assert_eq!(
        history.objection(&named(change("power cycle"), "a"), &at(1001 * SECOND), COOLDOWN),
        Some(Objection::Unfinished)
    );
    history.end(Ending::NotSent, &at(1002 * SECOND));
    assert_eq!(history, History::default(), "nothing was sent");
}

#[test]
fn of_alerts_that_were_begun_and_never_ended_the_outcome_is_unknown() {
    let mut history = history(&[(1000, alerts(change("power cycle"), &["a"]))]);
    history.begin(alerts(change("power cycle"), &["b"]), &at(2000 * SECOND));
    for (again, expected) in [(&["a"][..], Objection::ActedOn), (&["b"], Objection::Unfinished)] {
        let found = history.objection(&alerts(change("power cycle"), again), &at(3000 * SECOND), COOLDOWN);
        assert_eq!(found, Some(expected), "{again:?}");
    }
    let both = alerts(change("power cycle"), &["a", "b"]);
    for expected in [Objection::Unfinished, Objection::ActedOn] {
        assert_eq!(history.objection(&both, &at(3000 * SECOND), COOLDOWN), Some(expected));
        history.close(&both);
    }
}

#[test]
fn alerts_are_acted_on_once_however_they_are_grouped() {
    let history = history(&[
        (1000, alerts(change("power cycle"), &["a", "b"])),
        (2000, alerts(change("power cycle"), &["c"])),
    ]);
    for (again, expected) in [
        (alerts(change("power cycle"), &["a", "b"]), Some(Objection::ActedOn)),
        (alerts(change("power cycle"), &["b"]), Some(Objection::ActedOn)),
        (alerts(change("power cycle"), &["a", "c"]), Some(Objection::ActedOn)),
        (alerts(change("power cycle"), &["a", "d"]), None),
        (alerts(change("power on"), &["a"]), None),
    ] {
        assert_eq!(history.objection(&again, &at(1_000_000 * SECOND), COOLDOWN), expected, "{again:?}");
    }
}

#[test]
fn an_alert_whose_start_moves_back_is_the_same_and_one_that_starts_later_is_not() {
    let since = |since| {
        asked(
            change("power cycle"),
            Some(Delivery::Alerts(vec![Alert { fingerprint: "a".to_owned(), since, counts_from: since }])),
        )
    };
    let history = history(&[(1000, since(5))]);
    let far = 5 - i64::try_from(ALERT_START_MOVES.as_millis()).unwrap();
    for (start, expected) in [
        (4, Some(Objection::ActedOn)),
        (5, Some(Objection::ActedOn)),
        (6, None),
        (far, Some(Objection::ActedOn)),
        (far - 1, None),
    ] {
        assert_eq!(history.objection(&since(start), &at(1_000_000 * SECOND), COOLDOWN), expected, "{start}");
    }
}

#[test]
fn a_restart_waits_for_the_end_of_the_last_one() {
    for last in [change("power cycle"), change("power reset")] {
        let history = history(&[(1000, asked(last, None)), (1001, named(change("power on"), "x"))]);
        for next in [change("power cycle"), change("power reset")] {
            let too_soon = |ago| {
                let ago = Duration::from_millis(ago);
                Some(Objection::TooSoon { last, ago, wait: COOLDOWN.saturating_sub(ago) })
            };
            let objection =
                |moment: Moment, cooldown| history.objection(&asked(next, None), &at(moment), cooldown);
            assert_eq!(objection(1_000_000, COOLDOWN), too_soon(0));
            assert_eq!(objection(1_119_000, COOLDOWN), too_soon(119_000));
            assert_eq!(objection(1_119_999, COOLDOWN), too_soon(119_999));
            assert_eq!(objection(1_120_000, COOLDOWN), None);
            assert_eq!(objection(1_000_000, Duration::ZERO), None);
        }
        for other in ["power on", "power soft", "power off"] {
            assert_eq!(history.objection(&asked(change(other), None), &at(1_000_000), COOLDOWN), None);
        }
    }
}

#[test]
fn the_same_delivery_is_answered_even_while_it_is_too_soon() {
    let history =
        history(&[(1000, named(change("power cycle"), "a")), (1001, alerts(change("power cycle"), &["x"]))]);
    let again = |asked| history.objection(&asked, &at(1002 * SECOND), COOLDOWN);
    assert_eq!(again(named(change("power cycle"), "a")), Some(Objection::Answered(reply())));
    assert_eq!(again(alerts(change("power cycle"), &["x"])), Some(Objection::ActedOn));
}

#[test]
fn what_the_bmc_declined_is_no_restart() {
    let mut history = History::default();
    history.begin(named(change("power cycle"), "a"), &at(0));
    history.end(Ending::Declined(reply()), &at(0));
    assert_eq!(history.objection(&asked(change("power cycle"), None), &at(0), COOLDOWN), None);
    let again = history.objection(&named(change("power cycle"), "a"), &at(0), COOLDOWN);
    assert_eq!(again, Some(Objection::Answered(reply())));
}

#[test]
fn the_oldest_are_forgotten_first() {
    let mut history = History::default();
    for number in 0..=MAX_NAMES {
        history.begin(named(change("power on"), &number.to_string()), &at(0));
        history.end(Ending::Sent(reply()), &at(0));
    }
    assert_eq!(history.attempts.len(), MAX_NAMES);
    assert_eq!(history.objection(&named(change("power on"), "0"), &at(0), COOLDOWN), None);
    assert_eq!(
        history.objection(&named(change("power on"), "1"), &at(0), COOLDOWN),
        Some(Objection::Answered(reply()))
    );
}

/// Or an alert that fires would act once more, and a server be restarted while it starts.
#[test]
fn many_alerts_push_out_neither_a_restart_nor_what_other_keys_did() {
    let before = [(0, alerts(change("power on"), &["a"])), (0, asked(change("power cycle"), None))];
    let numbers: Vec<_> = (0..2 * MAX_NAMES).map(|number| number.to_string()).collect();
    let many = alerts(change("power on"), &numbers.iter().map(String::as_str).collect::<Vec<_>>());
    let another = Asked { key: "ACCESS_ON_KEY".to_owned(), ..many.clone() };
    for (many, ending, forgotten) in [
        (many.clone(), Ending::Sent(reply()), true),
        (many, Ending::NotSent, false),
        (another, Ending::Sent(reply()), false),
    ] {
        let mut history = history(&before);
        history.begin(many.clone(), &at(SECOND));
        history.end(ending, &at(SECOND));
        let acted = history.objection(&alerts(change("power on"), &["a"]), &at(SECOND), COOLDOWN);
        assert_eq!(acted.is_none(), forgotten, "{}", many.key);
        let restart = history.objection(&asked(change("power reset"), None), &at(SECOND), COOLDOWN);
        assert!(matches!(restart, Some(Objection::TooSoon { .. })), "{}: {restart:?}", many.key);
    }
}

#[test]
fn what_can_no_longer_matter_makes_room_by_itself() {
    let history = history(&[
        (0, named(change("power on"), "old")),
        (0, asked(change("power cycle"), None)),
        (0, alerts(change("power on"), &["old"])),
        (3600, named(change("power on"), "new")),
    ]);
    let kept: Vec<_> = history.attempts.iter().map(|attempt| attempt.asked.clone()).collect();
    assert_eq!(kept, [alerts(change("power on"), &["old"]), named(change("power on"), "new")]);
}

/// A time of day that is set right.
const TODAY: i64 = CLOCK_IS_SET + 1_000_000_000;

const HOUR: i64 = 3600 * SECOND;

#[test]
fn it_survives_being_written_down() {
    let mut history = history(&[
        (1, asked(change("power reset"), None)),
        (2, named(change("power on"), "\"a\"\u{1}")),
        (3, alerts(change("power cycle"), &["f t", "g u"])),
    ]);
    history.begin(named(change("power cycle"), "c"), &at(3500));
    history.end(Ending::Declined(reply()), &at(3500));
    history.begin(named(change("power soft"), "b"), &at(4000));
    let text = history.to_json(&now(BOOTS[0], 5000, TODAY));
    // Within one boot the time of day does not count, wherever it jumps.
    for time_of_day in [TODAY, 0, TODAY - 5 * HOUR, TODAY + 5 * HOUR] {
        let read = History::from_json(&text, &now(BOOTS[0], 9000, time_of_day));
        assert_eq!(
            read.as_ref(),
            Some(&(History { attempts: history.attempts.drain(..).collect(), ..History::default() }, false))
        );
        history = read.unwrap().0;
    }
}

/// Or a machine whose clock is wrong could restart its server twice within a minute.
#[test]
fn after_another_boot_ages_are_never_called_larger_than_they_are() {
    let cycle = || asked(change("power cycle"), None);
    // Written 10 s after the cycle; read 20 s after the next boot, the machine having been off for a minute.
    let written = |time_of_day| history(&[(500, cycle())]).to_json(&now(BOOTS[0], 510 * SECOND, time_of_day));
    for (then, today, ago) in [
        (TODAY, TODAY + 80 * SECOND, 90),         // both clocks are right
        (TODAY, TODAY - 5 * HOUR, 10),            // the clock was set back
        (TODAY, 0, 10),                           // it is not set any more
        (40 * SECOND, TODAY, 10),                 // it was not set then
        (40 * SECOND, 60 * SECOND, 10),           // it is never set
        (TODAY, TODAY + 5 * HOUR, 5 * 3600 + 10), // the machine was off for hours
    ] {
        let now = now(BOOTS[1], 20 * SECOND, today);
        let (read, is_other_boot) = History::from_json(&written(then), &now).unwrap();
        assert!(is_other_boot);
        assert_eq!(age(read.attempts[0].at, now.moment), Duration::from_secs(ago), "{then} {today}");
    }
    // Where no boot has a name, each counts as another one.
    let unnamed = history(&[(500, cycle())]).to_json(&now("", 510 * SECOND, TODAY));
    assert!(History::from_json(&unnamed, &now("", 520 * SECOND, TODAY)).unwrap().1);
}

/// Whatever the time of day says: within ten minutes of uptime no delivery runs twice.
#[test]
fn after_another_boot_a_delivery_is_remembered_by_uptime_alone() {
    let text =
        history(&[(500, named(change("power cycle"), "a"))]).to_json(&now(BOOTS[0], 510 * SECOND, TODAY));
    let read = |uptime: Moment| {
        let now = now(BOOTS[1], uptime * SECOND, TODAY + 24 * HOUR);
        let (history, _) = History::from_json(&text, &now).unwrap();
        history.objection(&named(change("power cycle"), "a"), &now, COOLDOWN)
    };
    assert_eq!(read(20), Some(Objection::Answered(reply())));
    let (history, _) = History::from_json(&text, &now(BOOTS[1], 20 * SECOND, TODAY + 24 * HOUR)).unwrap();
    let later = |uptime: Moment| {
        history.objection(
            &named(change("power cycle"), "a"),
            &now(BOOTS[1], uptime * SECOND, TODAY),
            COOLDOWN,
        )
    };
    assert_eq!(later(20 + 589), Some(Objection::Answered(reply())));
    assert_eq!(later(20 + 590), None);
    let restart = asked(change("power reset"), None);
    assert_eq!(history.objection(&restart, &now(BOOTS[1], 21 * SECOND, TODAY), COOLDOWN), None, "a day ago");
}

#[test]
fn an_attempt_in_the_future_counts_as_now() {
    let text = history(&[(900, asked(change("power cycle"), None))]).to_json(&now(BOOTS[0], 100, TODAY));
    for boot in BOOTS {
        let (read, _) = History::from_json(&text, &now(boot, 200, TODAY)).unwrap();
        assert_eq!(read.attempts[0].at, 200, "{boot}");
    }
}

fn read(text: &str) -> Option<History> {
    History::from_json(text, &now(BOOTS[0], 5, TODAY)).map(|(history, _)| history)
}

fn file(attempts: &Value) -> String {
    json!({"boot": BOOTS[0], "moment": 5, "time_of_day": TODAY, "attempts": attempts}).to_string()
}

#[test]
fn nothing_is_made_of_anything_else() {
    for text in ["", "{", "[]", "{\"attempts\":[]}", &file(&json!({})), &file(&json!(7))] {
        assert_eq!(read(text), None, "{text}");
    }
}

/// A newer version may have written it.
#[test]
fn a_strange_entry_is_kept_and_not_read() {
    let good = json!({"at": 1, "delivered": 1, "command": "power on", "key": "API_KEY", "id": "a"});
    let with = |name: &str, value: Value| {
        let mut strange = good.clone();
        strange[name] = value;
        strange
    };
    for strange in [
        json!(7),
        with("at", json!("yesterday")),
        with("command", json!("power status")),
        with("command", json!("raw 0x0 0x2")),
        with("key", Value::Null),
        with("id", json!(7)),
        with("alerts", json!(["a"])),
        json!({"at": 1, "delivered": 1, "command": "power on", "key": "API_KEY", "alerts": ["a"]}),
        with("ended", json!("yes")),
        with("ended", json!(true)),
        with("status", json!(70_000)),
        with("status", json!(200)),
    ] {
        let history = read(&file(&json!([strange, good]))).unwrap();
        assert!(history.has_strange(), "{strange}");
        assert_eq!(history.attempts.len(), 1, "{strange}");
        let again: Value = serde_json::from_str(&history.to_json(&at(5))).unwrap();
        assert_eq!(again["attempts"], json!([strange, good]));
    }
}

/// Or a key that only switches on could silence another's alerts.
#[test]
fn an_alert_is_a_key_s_own() {
    let history = history(&[(1000, alerts(change("power cycle"), &["a"]))]);
    let other = Asked { key: "ACCESS_OTHER_KEY".to_owned(), ..alerts(change("power cycle"), &["a"]) };
    assert_eq!(history.objection(&other, &at(1_000_000 * SECOND), COOLDOWN), None);
}

#[test]
fn an_alert_of_a_clock_far_ahead_hides_no_later_one() {
    let starting = |since| {
        asked(
            change("power cycle"),
            Some(Delivery::Alerts(vec![Alert { fingerprint: "a".to_owned(), since, counts_from: since }])),
        )
    };
    let ahead = TODAY + 5 * 24 * HOUR;
    let mut history = History::default();
    history.begin(starting(ahead), &at(0));
    history.end(Ending::Sent(reply()), &at(0));
    let objection = |since| history.objection(&starting(since), &at(HOUR), COOLDOWN);
    assert_eq!(objection(ahead), Some(Objection::ActedOn), "the same notification once more");
    assert_eq!(objection(TODAY - HOUR), Some(Objection::ActedOn), "its start moved back");
    assert_eq!(objection(TODAY + HOUR), None, "it fires anew");
}
