//! Section C: which checks stand for which row. **The one table**; a new test program gets a row in `crate::suite` first.

use std::collections::BTreeMap;
use std::time::Duration;

use super::report::{Row, Status};
use crate::suite::{Mode, Runner, Suite, tally};

/// A row of section C.
pub(crate) struct Harness {
    pub(crate) name: &'static str,
    /// What is checked: `(suite, tests)`; no tests means all of the suite.
    pub(crate) checks: &'static [(&'static str, &'static [&'static str])],
    /// Why there is nothing to run, if there is not.
    pub(crate) lacking: Option<&'static str>,
}

const fn harness(name: &'static str, checks: &'static [(&'static str, &'static [&'static str])]) -> Harness {
    Harness { name, checks, lacking: None }
}

/// Every test of this suite.
const ALL: &[&str] = &[];

/// In the order of the report.
pub(crate) const HARNESSES: &[Harness] = &[
    harness(
        "aba detection",
        &[
            ("loom_aba", ALL),
            (
                "loom_slot",
                &[
                    "a_stale_binding_does_not_run_on_the_new_owners_slot",
                    "a_grant_nobody_comes_for_in_time_is_not_kept",
                    "a_granted_slot_is_kept_for_whom_it_was_granted_to",
                ],
            ),
            ("loom_once", &["a_key_that_just_failed_is_never_answered_by_the_old_flight"]),
            ("pool", &["an_idle_binding_is_taken_over_and_its_thread_notices"]),
            (
                "core",
                &[
                    "memory::tests::behaviour::ids_of_streams_do_not_meet",
                    "memory::rule::tests::ids_of_all_streams_and_counts_differ_and_grow_with_the_count",
                    "slot::cell::tests::an_old_grant_is_no_owner_also_where_generations_wrap_around",
                ],
            ),
        ],
    ),
    harness(
        "alloc / free",
        &[
            ("loom_blocks", ALL),
            (
                "loom_memory",
                &[
                    "a_free_by_another_thread_meets_an_allocation",
                    "an_idle_cache_goes_to_one_of_two_streams",
                    "two_streams_never_exceed_the_budget_and_one_is_served",
                    "a_refusal_of_the_device_costs_no_other_stream_its_room",
                    "emptying_the_cache_spares_what_is_taken_meanwhile",
                ],
            ),
            (
                "core",
                &[
                    "memory::rule::tests::a_block_is_cached_exactly_when_every_ticket_is_done",
                    "memory::class::tests::every_small_size_gets_the_least_class_that_holds_it",
                    "memory::class::tests::large_sizes_are_whole_pages_and_waste_little",
                    "memory::class::tests::sizes_beyond_the_address_space_have_no_class",
                    "memory::tests::behaviour::live_blocks_never_overlap_and_all_bytes_come_back",
                    "memory::tests::random::threads_that_allocate_hand_over_and_free_keep_the_books",
                    "memory::tests::random::random_programs_reuse_nothing_early_and_lose_nothing",
                ],
            ),
        ],
    ),
    harness(
        "stream pool",
        &[
            (
                "loom_slot",
                &[
                    "two_threads_and_the_opener_on_one_slot_all_run",
                    "three_threads_on_two_slots_all_run",
                    "four_threads_on_two_slots_all_run",
                    "a_waiter_takes_the_slot_of_a_thread_that_keeps_running",
                    "a_released_slot_goes_to_the_oldest_waiter",
                    "the_end_of_a_section_hands_over_in_the_order_of_arrival",
                    "threads_and_tasks_share_one_queue",
                    "a_failing_factory_leaves_the_slot_to_the_waiter",
                    "closing_fails_those_who_wait",
                    "closing_fails_those_who_wait_for_a_turn",
                    "closing_waits_for_sections_and_lets_none_begin_afterwards",
                    "two_threads_close_at_once_and_each_payload_is_returned_once",
                    "a_pool_dropped_while_a_lease_runs_leaves_nothing",
                    "a_cancelled_wait_and_its_grant_lose_no_slot",
                    "a_wait_that_times_out_and_its_grant_lose_no_slot",
                    "guests_and_the_owner_take_turns",
                    "a_guest_that_goes_away_loses_no_turn",
                    "a_lease_gets_a_shared_slot_between_sections",
                ],
            ),
            ("shuttle_slot", ALL),
            ("core", &["slot::rule::tests::whoever_runs_or_was_granted_a_turn_or_leases_keeps_the_slot"]),
        ],
    ),
    harness(
        "thread binding (tls cache)",
        &[
            ("loom_binding", ALL),
            (
                "loom_slot",
                &[
                    "a_thread_that_ends_releases_its_slot_once",
                    "the_opener_keeps_stream_0_while_there_are_others",
                ],
            ),
            (
                "pool",
                &[
                    "live_threads_have_streams_of_their_own_while_slots_last",
                    "the_opener_gets_stream_0_back_when_it_is_free_again",
                    "a_section_that_panics_puts_its_stream_back",
                    "threads_that_end_leave_nothing_behind",
                    "a_thread_may_use_many_pools",
                ],
            ),
        ],
    ),
    Harness {
        name: "batch queue",
        checks: &[],
        lacking: Some("batching is not built yet; the row comes with it"),
    },
    harness("timeline / events", &[("loom_timeline", ALL)]),
    harness(
        "record stream",
        &[
            ("loom_record", ALL),
            (
                "loom_memory",
                &[
                    "a_block_that_another_stream_uses_is_reused_only_after_that_work",
                    "a_full_budget_waits_for_the_work_of_another_stream",
                ],
            ),
            (
                "core",
                &[
                    "hazard::tests::waits_order_every_conflict_and_none_is_superfluous",
                    "hazard::tests::a_block_is_reused_exactly_when_all_its_work_is_before_the_reuse",
                    "hazard::tests::pruning_changes_no_answer_but_drops_what_is_done",
                    "memory::tests::behaviour::a_block_in_use_on_another_stream_is_withheld_until_its_very_ticket_is_done",
                ],
            ),
        ],
    ),
    harness(
        "fork gate",
        &[
            ("loom_gate", ALL),
            #[cfg(unix)]
            ("fork", ALL),
        ],
    ),
    harness(
        "program cache",
        &[
            (
                "loom_once",
                &[
                    "a_key_is_compiled_once",
                    "a_failure_reaches_all_who_waited_and_is_retried_by_the_next",
                    "eviction_frees_only_what_nobody_runs",
                    "clearing_beside_a_compile_loses_nothing",
                    "a_wait_for_anothers_compile_ends_at_its_deadline",
                ],
            ),
            ("core", &["once::tests::a_panicking_compile_fails_those_who_waited_and_poisons_nothing"]),
        ],
    ),
    harness(
        "turnstile",
        &[
            ("loom_turnstile", ALL),
            (
                "core",
                &[
                    "turnstile::tests::who_keeps_the_turn_inside_loses_it_and_frees_nobody_elses",
                    "turnstile::tests::many_threads_get_through_and_hardly_ever_meet_at_the_lock",
                ],
            ),
        ],
    ),
    harness(
        "full system",
        &[
            ("loom_system", ALL),
            ("shuttle_system", ALL),
            ("programs", ALL),
            ("sim_memory", ALL),
            ("sim_schedule", ALL),
        ],
    ),
    harness("design model", &[("design", ALL)]),
];

/// The most that one suite's part of a row may take; loom has no bound in time of its own that would hide schedules.
const LIMIT: Duration = Duration::from_secs(900);

/// All suites that the table names.
pub(crate) fn suites() -> Vec<&'static Suite> {
    let mut names: Vec<&str> = HARNESSES.iter().flat_map(|h| h.checks).map(|(suite, _)| *suite).collect();
    names.sort_unstable();
    names.dedup();
    names.into_iter().map(|name| Suite::named(name).expect("a test sees to it")).collect()
}

/// Runs one row. What was built is run; a suite whose build failed fails the row with its text.
pub(crate) fn run(harness: &Harness, runner: &Runner, broken: &BTreeMap<&str, String>) -> Row {
    if let Some(why) = harness.lacking {
        return Row::new('C', harness.name, Status::NotRun, why);
    }
    let (mut explored, mut checks, mut others, mut seconds) = (Vec::new(), 0, 0, 0.0);
    for (name, tests) in harness.checks {
        let suite = Suite::named(name).expect("a test sees to it");
        if let Some(why) = broken.get(name) {
            return Row::new('C', harness.name, Status::Failed, format!("{name} was not built"))
                .with_detail(why.as_str());
        }
        let ended = match runner.run(suite, tests, LIMIT) {
            Ok(ended) => ended,
            Err(e) => return Row::new('C', harness.name, Status::Failed, e),
        };
        seconds += ended.seconds;
        let result = tally(&ended.stdout);
        let wanted = if tests.is_empty() { result.passed.max(1) } else { tests.len() };
        if !ended.success() || result.passed != wanted {
            let figure = format!("{name}: {}, {} of {wanted} passed", ended.verdict(), result.passed);
            return Row::new('C', harness.name, Status::Failed, figure)
                .took(seconds)
                .with_detail(ended.tail(40));
        }
        let lines: Vec<Explored> =
            ended.stdout.lines().chain(ended.stderr.lines()).filter_map(explored_in).collect();
        if matches!(suite.mode, Mode::Loom) && lines.len() < result.passed {
            let figure =
                format!("{name}: {} of {} checks printed what they explored", lines.len(), result.passed);
            return Row::new('C', harness.name, Status::Failed, figure)
                .took(seconds)
                .with_detail(ended.tail(40));
        }
        if lines.is_empty() {
            others += result.passed
        } else {
            checks += result.passed
        }
        explored.extend(lines);
    }
    Row::new('C', harness.name, Status::Passed, figure(&explored, checks, others)).took(seconds)
}

/// What one line of a check says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Explored {
    count: u64,
    /// `executions`, `states`, `schedules`, ...
    unit: String,
    /// Preemptions at most; none if any number.
    bound: Option<u64>,
}

/// What counts as a figure of exploration.
const UNITS: [&str; 8] =
    ["executions", "schedules", "states", "values", "programs", "histories", "inputs", "transitions"];

/// `NAME: 1,234 executions, all of them with at most 3 preemptions, 0.2 s`
pub(crate) fn explored_in(line: &str) -> Option<Explored> {
    // Libtest may have begun the line with `test NAME ... `.
    let line = line.rsplit(" ... ").next()?;
    let (_, rest) = line.rsplit_once(": ")?;
    let (count, rest) = rest.split_once(' ')?;
    let count = count.replace([',', '_'], "").parse().ok()?;
    let unit = rest.split([',', ' ', '.', ';']).next()?;
    let unit = UNITS.iter().find(|known| **known == unit)?;
    let bound = rest.split_once("at most ").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
    Some(Explored { count, unit: (*unit).to_owned(), bound })
}

fn figure(explored: &[Explored], checks: usize, others: usize) -> String {
    let mut units: BTreeMap<&str, u64> = BTreeMap::new();
    for line in explored {
        *units.entry(&line.unit).or_default() += line.count;
    }
    let mut parts: Vec<String> =
        units.iter().map(|(unit, count)| format!("{} {unit}", thousands(*count))).collect();
    let bounds: Vec<u64> = explored.iter().filter_map(|line| line.bound).collect();
    if let (Some(least), Some(most)) = (bounds.iter().min(), bounds.iter().max()) {
        let range = if least == most { least.to_string() } else { format!("{least} to {most}") };
        parts.push(format!("every schedule with at most {range} preemptions"));
    }
    if explored.iter().any(|line| line.bound.is_none() && line.unit == "executions") {
        parts.push("some with any number".into());
    }
    if checks > 0 {
        parts.insert(0, format!("{checks} model checks"));
    }
    if others > 0 {
        parts.push(format!("{others} other tests"));
    }
    parts.join(", ")
}

fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::process::root;
    use crate::suite::{Check, SUITES};

    #[test]
    fn every_model_check_stands_for_a_row_and_every_row_names_what_exists() {
        let root = root();
        let mut covered = BTreeSet::new();
        for harness in HARNESSES {
            assert!(harness.lacking.is_some() || !harness.checks.is_empty(), "{}", harness.name);
            for (suite, tests) in harness.checks {
                let suite = Suite::named(suite).unwrap_or_else(|| panic!("no suite {suite}"));
                for test in *tests {
                    Check::parse(&format!("{}::{test}", suite.name), &root).unwrap();
                    covered.insert((suite.name, (*test).to_owned()));
                }
                if tests.is_empty() {
                    covered.extend(suite.tests(&root).into_iter().map(|test| (suite.name, test)));
                }
            }
        }
        for suite in SUITES.iter().filter(|s| matches!(s.mode, Mode::Loom | Mode::Shuttle)) {
            for test in suite.tests(&root) {
                assert!(covered.contains(&(suite.name, test.clone())), "{}::{test} is in no row", suite.name);
            }
        }
    }

    #[test]
    fn the_rows_are_those_of_the_contract() {
        let names: Vec<_> = HARNESSES.iter().map(|h| h.name).collect();
        for row in [
            "aba detection",
            "alloc / free",
            "stream pool",
            "thread binding (tls cache)",
            "batch queue",
            "timeline / events",
            "record stream",
            "fork gate",
            "program cache",
            "full system",
        ] {
            assert!(names.contains(&row), "{row}");
        }
    }

    #[test]
    fn figures_are_read_and_added_up() {
        let line = |text| explored_in(text).unwrap();
        let a = line("x: y: 1,234 executions, all of them with at most 3 preemptions, 0.2 s");
        assert_eq!((a.count, a.unit.as_str(), a.bound), (1234, "executions", Some(3)));
        let b =
            line("test t ... loom memory, z: 49 executions, 2 threads, any number of preemptions, exhausted");
        assert_eq!((b.count, b.bound), (49, None));
        let c = line("pool: 866000 states");
        assert_eq!((c.count, c.unit.as_str()), (866_000, "states"));
        for no in ["test a ... ok", "x: executions", "x: 3 apples", "3 executions", ""] {
            assert_eq!(explored_in(no), None, "{no}");
        }
        let text = figure(&[a, b, c], 2, 5);
        assert_eq!(
            text,
            "2 model checks, 1,283 executions, 866,000 states, every schedule with at most 3 preemptions, some with any number, 5 other tests"
        );
    }
}
