//! Whether a node announces its prefixes. Pure.

use cpl_lb::observed::{EndpointHealth, Health};
use cpl_lb::plan::NodeConfig;
use cpl_lb::spec::{Bgp, EndpointStatus};

/// What is known when it is decided.
#[derive(Clone, Copy, Debug)]
pub(super) struct Situation<'a> {
    pub(super) config: &'a NodeConfig,
    /// What should run was read back, and nothing differs.
    pub(super) verified: bool,
    pub(super) endpoints: &'a [EndpointHealth],
    /// It is announced now.
    pub(super) announced: bool,
}

/// Whether to announce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Announce,
    Withdraw(Reason),
}

/// Why nothing is announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// The node takes no new connections.
    Drained,
    /// What runs is not what should, or nobody knows.
    NotVerified,
    /// The data plane is about to be changed in a way that may cost connections.
    RiskyChange,
    /// Too few endpoints are healthy.
    BelowLowMark,
    /// Too few are healthy to begin again.
    BelowHighMark,
}

impl Reason {
    /// As it is reported.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Drained => "Announce.Drained",
            Self::NotVerified => "Announce.NotVerified",
            Self::RiskyChange => "Announce.RiskyChange",
            Self::BelowLowMark => "Announce.BelowLowMark",
            Self::BelowHighMark => "Announce.BelowHighMark",
        }
    }
}

/// Between the marks everything stays as it is, so that endpoints that come and go do not make routes
/// come and go.
pub(super) fn decide(bgp: &Bgp, situation: Situation<'_>) -> Decision {
    let Situation {
        config,
        verified,
        endpoints,
        announced,
    } = situation;
    if config.node.drained {
        return Decision::Withdraw(Reason::Drained);
    }
    if !verified {
        return Decision::Withdraw(Reason::NotVerified);
    }
    let healthy = healthy_percent(config, endpoints);
    if healthy < bgp.low_mark_percent {
        Decision::Withdraw(Reason::BelowLowMark)
    } else if !announced && healthy < bgp.high_mark_percent {
        Decision::Withdraw(Reason::BelowHighMark)
    } else {
        Decision::Announce
    }
}

/// How many of the endpoints that should get connections are healthy; none of none is nothing.
fn healthy_percent(config: &NodeConfig, endpoints: &[EndpointHealth]) -> u8 {
    let wanted = config.targetgroups.iter().flat_map(|group| {
        let of_group = group.body.endpoints.iter();
        let up = of_group.filter(|e| e.status == EndpointStatus::Up && e.weight > 0);
        up.map(|endpoint| (group.name.as_str(), endpoint.id.as_str()))
    });
    let is_healthy = |(group, id): &(&str, &str)| {
        let found = endpoints
            .iter()
            .find(|e| e.targetgroup == *group && e.endpoint == *id);
        found.is_some_and(|endpoint| endpoint.health == Health::Healthy)
    };
    let wanted: Vec<_> = wanted.collect();
    let healthy = wanted.iter().filter(|one| is_healthy(one)).count();
    let percent = (healthy * 100).checked_div(wanted.len()).unwrap_or(0);
    u8::try_from(percent).unwrap_or(100)
}

/// Prefixes that are one address, which can be put on the loopback device.
pub(super) fn hosts(prefixes: &[String]) -> impl Iterator<Item = &str> {
    let is_host =
        |prefix: &&str| prefix.ends_with(if prefix.contains(':') { "/128" } else { "/32" });
    prefixes.iter().map(String::as_str).filter(is_host)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::{endpoint, node, targetgroup};
    use super::*;

    const BGP: Bgp = Bgp {
        local_asn: 65_001,
        peers: Vec::new(),
        advertised_prefixes: Vec::new(),
        low_mark_percent: 40,
        high_mark_percent: 70,
        withdraw_before_reload: false,
    };

    /// A node whose one target group has this many endpoints.
    fn config(endpoints: u8) -> NodeConfig {
        let named = |n: u8| endpoint(&format!("e{n}"), n + 1);
        let endpoints: Vec<_> = (0..endpoints).map(named).collect();
        node(&[targetgroup("web", 80, &endpoints)])
    }

    fn seen(healthy: usize, of: usize) -> Vec<EndpointHealth> {
        let endpoint = |n: usize| EndpointHealth {
            targetgroup: "web".to_owned(),
            endpoint: format!("e{n}"),
            health: if n < healthy {
                Health::Healthy
            } else {
                Health::Unhealthy
            },
            reason: None,
            receives_new: true,
            connections: 0,
        };
        (0..of).map(endpoint).collect()
    }

    fn check(healthy: usize, announced: bool, expected: Decision) {
        let (config, endpoints) = (config(10), seen(healthy, 10));
        let situation = Situation {
            config: &config,
            verified: true,
            endpoints: &endpoints,
            announced,
        };
        assert_eq!(decide(&BGP, situation), expected, "{healthy}");
    }

    #[test]
    fn between_the_marks_everything_stays() {
        check(10, false, Decision::Announce);
        check(7, false, Decision::Announce);
        check(6, false, Decision::Withdraw(Reason::BelowHighMark));
        check(6, true, Decision::Announce);
        check(4, true, Decision::Announce);
        check(3, true, Decision::Withdraw(Reason::BelowLowMark));
        check(3, false, Decision::Withdraw(Reason::BelowLowMark));
    }

    #[test]
    fn a_node_without_endpoints_announces_nothing() {
        let config = config(0);
        let situation = Situation {
            config: &config,
            verified: true,
            endpoints: &[],
            announced: true,
        };
        let withdrawn = Decision::Withdraw(Reason::BelowLowMark);
        assert_eq!(decide(&BGP, situation), withdrawn);
    }

    #[test]
    fn hosts_are_told_from_networks() {
        let all = [
            "192.0.2.1/32",
            "192.0.2.0/24",
            "2001:db8::1/128",
            "2001:db8::/32",
        ];
        let all = all.map(str::to_owned);
        let found: Vec<&str> = hosts(&all).collect();
        assert_eq!(found, ["192.0.2.1/32", "2001:db8::1/128"]);
    }

    proptest! {
        /// Never unverified, never drained, and deciding twice changes nothing: whatever is decided stays
        /// until something else changes.
        #[test]
        fn a_decision_is_safe_and_stays(
            healthy in 0..=10_usize, verified: bool, drained: bool, announced: bool,
        ) {
            let (mut config, endpoints) = (config(10), seen(healthy, 10));
            config.node.drained = drained;
            let situation = |announced| Situation {
                config: &config,
                verified,
                endpoints: &endpoints,
                announced,
            };
            let first = decide(&BGP, situation(announced));
            let announces = first == Decision::Announce;
            prop_assert!(!announces || (verified && !drained && healthy >= 4));
            prop_assert!(announces || !verified || drained || healthy < 7);
            let again = decide(&BGP, situation(announces)) == Decision::Announce;
            prop_assert_eq!(again, announces);
        }
    }
}
