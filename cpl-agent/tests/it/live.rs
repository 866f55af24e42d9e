//! Against a real HAProxy.

use crate::contract;
use crate::fixture::Site;

#[tokio::test]
async fn haproxy_keeps_the_contract() {
    contract::check(Site::haproxy).await;
}

#[tokio::test]
async fn render_keeps_the_contract() {
    contract::check(|site| site.render("/usr/sbin/haproxy")).await;
}
