//! What every driver must do, whatever its data plane is. The same cases run for each of them; what
//! only traffic can show is asked only of those that carry any.

use cpl_agent::driver::{Applied, Driver};
use cpl_core::delivery::{Configuration, DataPlaneState, Stage};
use cpl_lb::plan::TargetGroup;
use cpl_lb::spec::CheckKind;

use crate::fixture::{Site, configuration, endpoint, label, rejections, targetgroup};

/// Runs all cases, each at a site of its own. `open` makes a driver for a site, as often as it is
/// asked: each is an agent that was started again.
pub(crate) async fn check<D: Driver>(open: fn(&Site) -> D) {
    what_was_applied_is_observed(open).await;
    applying_twice_changes_nothing(open).await;
    a_label_alone_disturbs_nothing(open).await;
    a_bad_body_is_refused_by_name_and_changes_nothing(open).await;
    another_agent_goes_on_where_one_stopped(open).await;
    two_listeners_on_one_port_are_refused(open).await;
}

fn web(site: &Site) -> TargetGroup {
    let endpoints = vec![endpoint("ep-1", site.free())];
    targetgroup("web", site.free().port(), endpoints)
}

async fn apply(driver: &impl Driver, version: u64, configuration: &Configuration) -> Applied {
    let label = label(version, configuration);
    let applied = driver.apply(&label, configuration).await;
    applied.expect("a good configuration is applied")
}

async fn expect_runs(driver: &impl Driver, version: u64, configuration: &Configuration) {
    let observed = driver.observe().await.expect("it can be observed");
    assert_eq!(observed.label, Some(label(version, configuration)));
    let drift = driver.verify(configuration).await.expect("it can be asked");
    assert_eq!(drift, []);
}

async fn end(driver: impl Driver) {
    driver.stop().await.expect("it ends");
    let observed = driver.observe().await.expect("it can be observed");
    let state = observed.state;
    if driver.carries_traffic() {
        assert_eq!(state, DataPlaneState::Down);
    } else {
        assert_eq!(state, DataPlaneState::None);
    }
}

async fn what_was_applied_is_observed<D: Driver>(open: fn(&Site) -> D) {
    let site = Site::new();
    let driver = open(&site);
    assert_eq!(driver.observe().await.unwrap().label, None);
    let config = configuration(&site.node(), &[web(&site)]);
    driver.check(&config).await.expect("it is good");
    let first = apply(&driver, 5, &config).await;
    if driver.carries_traffic() {
        assert_eq!(first, Applied::Started);
        let state = driver.observe().await.unwrap().state;
        assert_eq!(state, DataPlaneState::Healthy);
    } else {
        assert_eq!(first, Applied::Written);
    }
    expect_runs(&driver, 5, &config).await;
    driver.housekeep(&config).await.unwrap();
    expect_runs(&driver, 5, &config).await;
    let empty = configuration(&site.node(), &[]);
    apply(&driver, 6, &empty).await;
    expect_runs(&driver, 6, &empty).await;
    end(driver).await;
}

async fn applying_twice_changes_nothing<D: Driver>(open: fn(&Site) -> D) {
    let site = Site::new();
    let driver = open(&site);
    let config = configuration(&site.node(), &[web(&site)]);
    apply(&driver, 5, &config).await;
    assert_eq!(apply(&driver, 5, &config).await, Applied::Unchanged);
    expect_runs(&driver, 5, &config).await;
    end(driver).await;
}

async fn a_label_alone_disturbs_nothing<D: Driver>(open: fn(&Site) -> D) {
    let site = Site::new();
    let driver = open(&site);
    let config = configuration(&site.node(), &[web(&site)]);
    apply(&driver, 5, &config).await;
    assert_eq!(apply(&driver, 9, &config).await, Applied::Unchanged);
    expect_runs(&driver, 9, &config).await;
    end(driver).await;
}

async fn a_bad_body_is_refused_by_name_and_changes_nothing<D: Driver>(open: fn(&Site) -> D) {
    let site = Site::new();
    let driver = open(&site);
    let good = web(&site);
    let config = configuration(&site.node(), std::slice::from_ref(&good));
    apply(&driver, 5, &config).await;

    let mut bad = targetgroup("shop", site.free().port(), vec![]);
    bad.body.spec.health_check.kind = CheckKind::Http;
    bad.body.spec.health_check.expect_body = Some("don't (close".to_owned());
    let both = configuration(&site.node(), &[bad, good]);
    let checked = rejections(driver.check(&both).await);
    let refused = rejections(driver.apply(&label(6, &both), &both).await);
    assert_eq!(checked, refused);
    let [only] = refused.as_slice() else {
        panic!("one rejection, not {refused:?}")
    };
    assert_eq!(
        only.object.as_ref().unwrap().to_string(),
        "TargetGroup/shop"
    );
    let field = only.field.as_deref();
    assert_eq!(field, Some("/spec/health_check/expect_body"));
    assert_eq!(
        (only.stage, only.code.as_str()),
        (Stage::Check, "CONFIG_INVALID")
    );
    assert!(only.message.contains("don't (close"), "{}", only.message);
    expect_runs(&driver, 5, &config).await;

    let other = targetgroup("api", site.free().port(), vec![]);
    let other = configuration(&site.node(), &[other]);
    apply(&driver, 7, &other).await;
    expect_runs(&driver, 7, &other).await;
    end(driver).await;
}

async fn another_agent_goes_on_where_one_stopped<D: Driver>(open: fn(&Site) -> D) {
    let site = Site::new();
    let mut tg = web(&site);
    let config = configuration(&site.node(), std::slice::from_ref(&tg));
    apply(&open(&site), 5, &config).await;

    let second = open(&site);
    expect_runs(&second, 5, &config).await;
    assert_eq!(apply(&second, 5, &config).await, Applied::Unchanged);
    tg.body.endpoints[0].weight = 3;
    let changed = configuration(&site.node(), &[tg]);
    let applied = apply(&second, 6, &changed).await;
    if second.carries_traffic() {
        assert_eq!(applied, Applied::Runtime(1));
    }
    expect_runs(&second, 6, &changed).await;
    end(second).await;
}

async fn two_listeners_on_one_port_are_refused<D: Driver>(open: fn(&Site) -> D) {
    let site = Site::new();
    let driver = open(&site);
    let port = site.free().port();
    let both = ["api", "web"].map(|name| targetgroup(name, port, vec![]));
    let config = configuration(&site.node(), &both);
    let refused = rejections(driver.apply(&label(5, &config), &config).await);
    let codes: Vec<&str> = refused.iter().map(|r| r.code.as_str()).collect();
    assert_eq!(codes, ["ADDRESS_CONFLICT"]);
    assert_eq!(driver.observe().await.unwrap().label, None);
}

#[tokio::test]
async fn a_driver_without_data_plane_accepts_what_it_can_judge() {
    let site = Site::new();
    let driver = site.render("/nonexistent/haproxy");
    assert!(!driver.carries_traffic());
    let config = configuration(&site.node(), &[web(&site)]);
    assert_eq!(apply(&driver, 5, &config).await, Applied::Written);
    expect_runs(&driver, 5, &config).await;
    std::fs::write(site.state().join("haproxy.cfg"), "edited").unwrap();
    assert_eq!(driver.verify(&config).await.unwrap().len(), 1);
    assert_eq!(apply(&driver, 5, &config).await, Applied::Unchanged);
    expect_runs(&driver, 5, &config).await;
}
