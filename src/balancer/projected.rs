//! The rule `projected`: which of several servers gets the next request (docs/balancing.md, "The rule `projected`").
//!
//! Called by the [`Chooser`](super::Chooser) with what it knows of each server that may be chosen. Pure: the same input
//! and the same state of the dice give the same choice.
//!
//! - **Nothing in flight from any node, and nothing expected:** the lowest agreed CPU load wins. The newest report is
//!   all there is to know.
//! - **Otherwise** a server is as loaded as it would be with this request: its requests in flight from all nodes, and
//!   one more, and the busy cores that are not ours, per core.
//! - **Water.** If all nodes took the least loaded server, all of them would run to the same one. So imagine the
//!   servers as vessels, as wide as they have cores and filled as high as they are loaded, and pour in the requests
//!   that the other nodes are about to send. The water finds its level; each server below it is drawn with a chance in
//!   proportion to the room between its load and the level (stochastically coordinated dispatching: Goren, Vargaftik,
//!   Moses, PODC 2021). With nothing to pour in, the level is the least loaded server's own, and it wins.
//! - Loads less than [`EQUAL_BELOW`] apart are equal: a report is not more exact than that.

use crate::raft::Random;

/// Loads that are less than this apart, in percent of the cores, are equal.
const EQUAL_BELOW: f64 = 2.0;

/// Below this, no request is expected from other nodes.
const EXPECTED_MIN: f64 = 0.5;

/// What the rule knows of a server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    /// Its cores.
    pub(super) cores: f64,
    /// How many percent of them were busy by its newest agreed report.
    pub(super) cpu: f64,
    /// How many cores were busy with what is not ours, by the same report.
    pub(super) foreign: f64,
    /// Requests in flight there from all nodes.
    pub(super) in_flight: f64,
}

impl Candidate {
    /// Its load in percent, without another request: what a choice says that it was made for.
    pub(super) fn load(&self, idle: bool) -> f64 {
        if idle { self.cpu } else { self.load_with(0.0) }
    }

    /// Its load in percent if there were so many requests more.
    fn load_with(&self, more: f64) -> f64 {
        (self.foreign + self.in_flight + more) / self.cores * 100.0
    }
}

/// The place of the chosen server and its load in percent, without this request; `None` if there are no candidates.
/// `expected` is how many requests the other nodes are about to send.
pub(super) fn choose(candidates: &[Candidate], expected: f64, dice: &mut Random) -> Option<(usize, f64)> {
    let idle = is_idle(candidates, expected);
    // What they are compared by: load and width.
    let vessel = |server: &Candidate| match idle {
        true => Vessel { load: server.cpu, cores: 1.0 }, // Equal loads are equal, on however many cores.
        false => Vessel { load: server.load_with(1.0), cores: server.cores },
    };
    let vessels: Vec<Vessel> = candidates.iter().map(vessel).collect();
    let lowest = vessels.iter().map(|vessel| vessel.load).min_by(f64::total_cmp)?;
    let level = if idle { lowest } else { water_level(&vessels, expected) };
    let level = level.max(lowest + EQUAL_BELOW);
    let room = |vessel: &Vessel| match vessel.load < level {
        true if idle => 1.0,
        true => (level - vessel.load) * vessel.cores,
        false => 0.0,
    };
    let mut drawn = dice.unit() * vessels.iter().map(room).sum::<f64>();
    let mut chosen = None;
    for (place, vessel) in vessels.iter().enumerate() {
        let room = room(vessel);
        if room > 0.0 {
            chosen = Some(place);
            drawn -= room;
            if drawn < 0.0 {
                break;
            }
        }
    }
    chosen.map(|place| (place, candidates[place].load(idle)))
}

/// Whether nothing is in flight from any node, and nothing expected.
pub(super) fn is_idle(candidates: &[Candidate], expected: f64) -> bool {
    expected < EXPECTED_MIN && candidates.iter().all(|server| server.in_flight == 0.0)
}

/// A server as the rule imagines it: filled up to its load, as wide as its cores.
#[derive(Clone, Copy)]
struct Vessel {
    load: f64,
    cores: f64,
}

/// How high the water stands, in percent, when so many requests are poured in.
fn water_level(vessels: &[Vessel], requests: f64) -> f64 {
    // As if all were under water. Those that stand out of it hold none of it: without them it stands lower, and perhaps
    // others stand out. At most one round for each vessel, usually two or three.
    let mut level = f64::INFINITY;
    loop {
        let under = || vessels.iter().filter(|vessel| vessel.load < level);
        let cores: f64 = under().map(|vessel| vessel.cores).sum();
        let held: f64 = under().map(|vessel| vessel.load * vessel.cores).sum();
        let lower = (requests * 100.0 + held) / cores;
        // With nothing poured in, none is under water in the end: 0 / 0 is not a number.
        if lower.is_nan() || lower >= level {
            return level;
        }
        level = lower;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `busy` and `foreign` in cores.
    fn server(cores: u32, busy: f64, foreign: f64, in_flight: u32) -> Candidate {
        let cores = f64::from(cores);
        Candidate { cores, cpu: busy / cores * 100.0, foreign, in_flight: f64::from(in_flight) }
    }

    /// How often each was chosen in a thousand draws.
    fn draws(candidates: &[Candidate], expected: f64) -> Vec<u32> {
        let mut dice = Random::new(3);
        let mut counts = vec![0; candidates.len()];
        for _ in 0..1_000 {
            counts[choose(candidates, expected, &mut dice).expect("there are servers").0] += 1;
        }
        counts
    }

    #[test]
    fn with_nothing_in_flight_and_nothing_expected_the_lowest_cpu_wins() {
        // The busy cores count, whoever explains them: right after a burst, all of 100 % was ours.
        let servers = [server(4, 4.0, 0.0, 0), server(4, 1.2, 1.2, 0), server(4, 1.0, 1.0, 0)];
        assert_eq!(draws(&servers, 0.0), [0, 0, 1_000], "five points apart");
        assert_eq!(draws(&servers, 0.49), [0, 0, 1_000]);
        // By percent of the cores, not by cores.
        assert_eq!(draws(&[server(2, 1.0, 1.0, 0), server(8, 3.0, 3.0, 0)], 0.0), [0, 1_000]);
    }

    #[test]
    fn loads_less_than_two_points_apart_are_equal_and_drawn_at_random() {
        // 10, 11.95 and 12.03 %.
        let servers = [server(4, 0.40, 0.4, 0), server(2, 0.239, 0.0, 0), server(4, 0.481, 0.4, 0)];
        let counts = draws(&servers, 0.0);
        assert!(counts[0] > 450 && counts[1] > 450 && counts[2] == 0, "{counts:?}");
    }

    #[test]
    fn under_load_the_fewest_per_core_from_all_nodes_and_from_others_win() {
        assert_eq!(
            draws(&[server(4, 0.0, 0.0, 3), server(2, 2.0, 0.0, 0)], 0.0),
            [0, 1_000],
            "1/2 is less than 4/4"
        );
        assert_eq!(
            draws(&[server(4, 0.0, 0.0, 1), server(2, 0.0, 0.0, 1)], 0.0),
            [1_000, 0],
            "2/4 is less than 2/2"
        );
        assert_eq!(
            draws(&[server(2, 2.0, 1.5, 0), server(2, 2.0, 0.0, 1)], 0.0),
            [0, 1_000],
            "foreign load counts"
        );
    }

    #[test]
    fn what_the_others_are_about_to_send_is_poured_in() {
        // Loads with this request: 1/4, 1/2, 2/2. Two more: they fill the first and then the second to 4/6.
        let servers = [server(4, 0.0, 0.0, 0), server(2, 0.0, 0.0, 0), server(2, 0.0, 0.0, 1)];
        let counts = draws(&servers, 2.0);
        // Room: 4 * 4/6 - 1 = 5/3 and 2 * 4/6 - 1 = 1/3.
        assert!(counts[0].abs_diff(833) < 40 && counts[1].abs_diff(167) < 40 && counts[2] == 0, "{counts:?}");
        // Many more: in proportion to the cores.
        let counts = draws(&servers, 10_000.0);
        assert!(counts[0].abs_diff(500) < 50 && counts[1].abs_diff(250) < 50, "{counts:?}");
    }

    #[test]
    fn the_water_finds_its_level() {
        let vessel = |cores, load| Vessel { load, cores };
        let vessels = [vessel(1.0, 500.0), vessel(1.0, 100.0), vessel(2.0, 0.0)];
        for (requests, level) in [(1.0, 50.0), (2.0, 100.0), (5.0, 200.0), (14.0, 500.0), (18.0, 600.0)] {
            assert!((water_level(&vessels, requests) - level).abs() < 1e-9, "{requests}");
        }
        assert_eq!(water_level(&vessels, 0.0), 0.0, "nothing poured in: as high as the lowest");
    }

    #[test]
    fn nobody_is_chosen_from_none_and_one_from_one() {
        let mut dice = Random::new(1);
        assert_eq!(choose(&[], 5.0, &mut dice), None);
        for (expected, in_flight) in [(0.0, 0), (0.0, 7), (1e9, 7)] {
            let only = [server(1, 1.0, 1.0, in_flight)];
            assert_eq!(choose(&only, expected, &mut dice).map(|(place, _)| place), Some(0));
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..proptest::prelude::ProptestConfig::default() })]

        /// Whatever is known, somebody is chosen, and never one that is two points above the lowest when nothing is
        /// expected.
        #[test]
        fn somebody_is_always_chosen(
            servers in proptest::collection::vec((1..64u32, 0.0..=1.0f64, 0.0..=1.0f64, 0..100u32), 1..40),
            expected in proptest::option::of(0.0..100.0f64), seed: u64,
        ) {
            let servers: Vec<_> = servers.iter().map(|&(cores, busy, foreign, in_flight)| {
                server(cores, busy * f64::from(cores), busy * foreign * f64::from(cores), in_flight)
            }).collect();
            let (place, load) = choose(&servers, expected.unwrap_or(0.0), &mut Random::new(seed)).expect("some");
            proptest::prop_assert!(place < servers.len() && load.is_finite());
            if expected.is_none() && servers.iter().any(|server| server.in_flight > 0.0) {
                let lowest = servers.iter().map(|server| server.load_with(1.0)).fold(f64::INFINITY, f64::min);
                proptest::prop_assert!(servers[place].load_with(1.0) < lowest + EQUAL_BELOW);
            }
        }
    }
}
