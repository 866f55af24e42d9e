//! Every route as a method of the client.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;

use cpl_core::delivery::Delivered;
use cpl_core::ids::SealId;
use cpl_core::version::Generation;
use http::Method;
use serde_json::Value;

use crate::agent::{RegisterRequest, RegisterResponse, SyncRequest, SyncResponse};
use crate::client::{Call, ControlPlaneClient, WriteOptions};
use crate::error::ControlPlaneError;
use crate::object::{
    ApplyRequest, AuditRecord, Change, ChangeResponse, DiffResponse, EndpointsChange, ListResponse,
    NodeLogEntry, Object, RollbackRequest, RolloutResponse, WhyResponse,
};
use crate::server::{About, ConfigUpdateTask, Health, SealRequest, SealResponse};
use crate::token::{CreateToken, CreatedToken, JoinRequest, TokenView};
use crate::transport::{
    ByteStream, CONFIGURATION_BYTES, ControlPlaneTransport, TransportError, encode,
};
use crate::watch::Watch;

/// The type of an export: one JSON value per line.
pub const JSON_LINES: &str = "application/jsonl";

/// Most pages that [`ControlPlaneClient::list_all`] reads.
const MOST_PAGES: usize = 10_000;

/// How much longer than the server waits the client waits for it.
const WAIT_MARGIN: Duration = Duration::from_secs(10);

/// A kind of object, as it stands in paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Collection {
    /// Target groups.
    Targetgroups,
    /// Nodes.
    Nodes,
}

impl Collection {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Targetgroups, Self::Nodes];

    /// The word in paths: `targetgroups`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Targetgroups => "targetgroups",
            Self::Nodes => "nodes",
        }
    }

    /// The word in manifests: `TargetGroup`.
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Targetgroups => "TargetGroup",
            Self::Nodes => "Node",
        }
    }
}

impl Display for Collection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a list should show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListQuery {
    /// At most this many; the server has a limit of its own.
    pub page_size: Option<u32>,
    /// From the page before.
    pub page_token: Option<String>,
    /// Only what has all of these labels.
    pub labels: BTreeMap<String, String>,
    /// Only what belongs to this tenant.
    pub tenant: Option<String>,
}

/// A page of something that has neither labels nor tenants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// At most this many; the server has a limit of its own.
    pub page_size: Option<u32>,
    /// From the page before.
    pub page_token: Option<String>,
}

/// What an operator tells a node to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NodeVerb {
    /// Let its connections end and take no new ones.
    Drain,
    /// Serve again.
    Undrain,
    /// Try again what it holds.
    Retry,
}

impl NodeVerb {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Undrain => "undrain",
            Self::Retry => "retry",
        }
    }
}

/// Whether a deletion may change other objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cascade {
    /// What is in use is not deleted.
    #[default]
    No,
    /// It is taken out of use first.
    Yes,
}

impl<T: ControlPlaneTransport + ?Sized> ControlPlaneClient<T> {
    /// Whether the process lives.
    pub async fn healthz(&self) -> Result<Health, ControlPlaneError> {
        self.read("/healthz".to_owned()).await
    }

    /// Whether it can serve; a problem with code `UNAVAILABLE` when it cannot.
    pub async fn readyz(&self) -> Result<Health, ControlPlaneError> {
        self.read("/readyz".to_owned()).await
    }

    /// What runs there.
    pub async fn version(&self) -> Result<About, ControlPlaneError> {
        self.read("/version".to_owned()).await
    }

    /// One page of the objects of a kind, by name.
    pub async fn list(
        &self,
        collection: Collection,
        query: &ListQuery,
    ) -> Result<ListResponse<Object>, ControlPlaneError> {
        let ListQuery {
            page_size,
            page_token,
            labels,
            tenant,
        } = query;
        let mut target = Target::new(format!("/v1/{collection}"))
            .query("page_size", page_size.as_ref())
            .query("page_token", page_token.as_ref())
            .query("tenant", tenant.as_ref());
        for (key, value) in labels {
            target = target.query("label", Some(&format!("{key}={value}")));
        }
        self.read(target.0).await
    }

    /// All objects of a kind; the cursor is that of the first page, so a watch from there misses
    /// nothing.
    pub async fn list_all(
        &self,
        collection: Collection,
        query: &ListQuery,
    ) -> Result<ListResponse<Object>, ControlPlaneError> {
        let mut query = query.clone();
        let mut all = self.list(collection, &query).await?;
        for _ in 1..MOST_PAGES {
            let Some(token) = all.next_page_token.take() else {
                return Ok(all);
            };
            query.page_token = Some(token);
            let page = self.list(collection, &query).await?;
            all.items.extend(page.items);
            all.next_page_token = page.next_page_token;
        }
        Err(TransportError::TooLarge { limit: MOST_PAGES }.into())
    }

    /// One object with its status.
    pub async fn get(
        &self,
        collection: Collection,
        name: &str,
    ) -> Result<Object, ControlPlaneError> {
        self.read(object(collection, name).0).await
    }

    /// Brings objects to what manifests say, all in one version or none.
    pub async fn apply(
        &self,
        request: &ApplyRequest,
        options: &WriteOptions,
    ) -> Result<ChangeResponse, ControlPlaneError> {
        let target = Target::new("/v1/apply".to_owned()).dry_run(options);
        self.write(Call::post(target.0, request)?, options).await
    }

    /// Deletes an object.
    pub async fn delete(
        &self,
        collection: Collection,
        name: &str,
        cascade: Cascade,
        options: &WriteOptions,
    ) -> Result<ChangeResponse, ControlPlaneError> {
        let target = object(collection, name)
            .query("cascade", (cascade == Cascade::Yes).then_some(&true))
            .dry_run(options);
        self.write(Call::new(Method::DELETE, target.0), options)
            .await
    }

    /// Adds, changes and removes endpoints of a target group by id.
    pub async fn change_endpoints(
        &self,
        name: &str,
        request: &EndpointsChange,
        options: &WriteOptions,
    ) -> Result<ChangeResponse, ControlPlaneError> {
        let target = object(Collection::Targetgroups, name)
            .part("/endpoints:change")
            .dry_run(options);
        self.write(Call::post(target.0, request)?, options).await
    }

    /// One page of the changes of an object, newest first.
    pub async fn history(
        &self,
        collection: Collection,
        name: &str,
        page: &Page,
    ) -> Result<ListResponse<Change>, ControlPlaneError> {
        let target = object(collection, name).part("/history").page(page);
        self.read(target.0).await
    }

    /// What differs between two generations of an object; absent ends are the one before the present
    /// and the present.
    pub async fn diff(
        &self,
        collection: Collection,
        name: &str,
        from: Option<Generation>,
        to: Option<Generation>,
    ) -> Result<DiffResponse, ControlPlaneError> {
        let target = object(collection, name)
            .part(":diff")
            .query("from", from.as_ref())
            .query("to", to.as_ref());
        self.read(target.0).await
    }

    /// Makes a new version of an object with old content.
    pub async fn rollback(
        &self,
        collection: Collection,
        name: &str,
        request: RollbackRequest,
        options: &WriteOptions,
    ) -> Result<ChangeResponse, ControlPlaneError> {
        let target = object(collection, name).part(":rollback").dry_run(options);
        self.write(Call::post(target.0, &request)?, options).await
    }

    /// Makes a new version of what somebody has put in an object's place in the store, past CPL.
    pub async fn adopt(
        &self,
        collection: Collection,
        name: &str,
        options: &WriteOptions,
    ) -> Result<ChangeResponse, ControlPlaneError> {
        self.resolve(collection, name, ":adopt", options).await
    }

    /// Makes a new version of what an object was before somebody changed it past CPL.
    pub async fn revert(
        &self,
        collection: Collection,
        name: &str,
        options: &WriteOptions,
    ) -> Result<ChangeResponse, ControlPlaneError> {
        self.resolve(collection, name, ":revert", options).await
    }

    async fn resolve(
        &self,
        collection: Collection,
        name: &str,
        verb: &str,
        options: &WriteOptions,
    ) -> Result<ChangeResponse, ControlPlaneError> {
        let target = object(collection, name).part(verb).dry_run(options);
        let nothing = serde_json::json!({});
        self.write(Call::post(target.0, &nothing)?, options).await
    }

    /// How far the newest generation of an object has come.
    pub async fn rollout(
        &self,
        collection: Collection,
        name: &str,
    ) -> Result<RolloutResponse, ControlPlaneError> {
        self.read(object(collection, name).part("/rollout").0).await
    }

    /// What is wrong with a node.
    pub async fn why(&self, node: &str) -> Result<WhyResponse, ControlPlaneError> {
        self.read(object(Collection::Nodes, node).part(":why").0)
            .await
    }

    /// One page of a node's log, newest first.
    pub async fn node_log(
        &self,
        node: &str,
        page: &Page,
    ) -> Result<ListResponse<NodeLogEntry>, ControlPlaneError> {
        let target = object(Collection::Nodes, node).part("/log").page(page);
        self.read(target.0).await
    }

    /// What a node must run.
    pub async fn configuration(&self, node: &str) -> Result<Delivered, ControlPlaneError> {
        let target = object(Collection::Nodes, node).part("/configuration");
        let call = Call::new(Method::GET, target.0).up_to(CONFIGURATION_BYTES);
        self.read_call(call).await
    }

    /// Tells a node what to do.
    pub async fn node_verb(
        &self,
        node: &str,
        verb: NodeVerb,
        options: &WriteOptions,
    ) -> Result<ChangeResponse, ControlPlaneError> {
        let target = object(Collection::Nodes, node)
            .part(":")
            .part(verb.as_str())
            .dry_run(options);
        self.write(Call::post(target.0, &empty())?, options).await
    }

    /// Makes a node, when it does not exist, and a token for its agent to join with.
    pub async fn join(
        &self,
        node: &str,
        request: &JoinRequest,
        options: &WriteOptions,
    ) -> Result<CreatedToken, ControlPlaneError> {
        let target = object(Collection::Nodes, node).part(":join");
        self.write(Call::post(target.0, request)?, options).await
    }

    /// One page of the tokens, without their secrets.
    pub async fn tokens(&self, page: &Page) -> Result<ListResponse<TokenView>, ControlPlaneError> {
        self.read(Target::new("/v1/tokens".to_owned()).page(page).0)
            .await
    }

    /// Makes a token.
    pub async fn create_token(
        &self,
        request: &CreateToken,
        options: &WriteOptions,
    ) -> Result<CreatedToken, ControlPlaneError> {
        self.write(Call::post("/v1/tokens".to_owned(), request)?, options)
            .await
    }

    /// Ends a token; returns what it was.
    pub async fn revoke_token(
        &self,
        id: &str,
        options: &WriteOptions,
    ) -> Result<TokenView, ControlPlaneError> {
        let target = Target::new("/v1/tokens/".to_owned()).segment(id);
        self.write(Call::new(Method::DELETE, target.0), options)
            .await
    }

    /// One page of the audit, newest first.
    pub async fn audit(&self, page: &Page) -> Result<ListResponse<AuditRecord>, ControlPlaneError> {
        self.read(Target::new("/v1/audit".to_owned()).page(page).0)
            .await
    }

    /// One page of the open `config_update` tasks.
    pub async fn config_update_tasks(
        &self,
        page: &Page,
    ) -> Result<ListResponse<ConfigUpdateTask>, ControlPlaneError> {
        let target = Target::new("/v1/tasks/config_update".to_owned()).page(page);
        self.read(target.0).await
    }

    /// Follows the changes after `from`, or after now; of all collections when none is named.
    ///
    /// Without `from` nothing is promised of the time before the first event, which the server sends
    /// at once (a bookmark).
    pub fn watch(&self, collection: Option<Collection>, from: Option<String>) -> Watch<T> {
        let target = Target::new("/v1/watch".to_owned()).query("collection", collection.as_ref());
        Watch::new(self.clone(), target.0, from)
    }

    /// Everything in the store, one JSON value per line, in parts that do not end at lines.
    pub async fn export(&self) -> Result<ByteStream, ControlPlaneError> {
        let call = Call::new(Method::GET, "/v1/store:export".to_owned());
        Ok(self.open(call, JSON_LINES).await?.body)
    }

    /// Ends all writing to the server's store. One try; it may be repeated.
    pub async fn seal_store(&self, seal: SealId) -> Result<SealResponse, ControlPlaneError> {
        let request = SealRequest { seal };
        self.once(Call::post("/v1/store:seal".to_owned(), &request)?)
            .await
    }

    /// Lets the server's store take writes again. One try; it may be repeated.
    pub async fn unseal_store(&self) -> Result<SealResponse, ControlPlaneError> {
        self.once(Call::new(Method::POST, "/v1/store:unseal".to_owned()))
            .await
    }

    /// Makes this process the one that speaks for a node. One try.
    pub async fn register(
        &self,
        node: &str,
        request: &RegisterRequest,
    ) -> Result<RegisterResponse, ControlPlaneError> {
        self.once(Call::post(agent(node, "register"), request)?)
            .await
    }

    /// Reports, and waits for news. One try: a later call replaces a lost one.
    pub async fn sync(
        &self,
        node: &str,
        request: &SyncRequest,
    ) -> Result<SyncResponse, ControlPlaneError> {
        let wait = Duration::from_millis(request.wait_ms);
        let call = Call::post(agent(node, "sync"), request)?
            .up_to(CONFIGURATION_BYTES)
            .timeout(wait.saturating_add(WAIT_MARGIN));
        self.once(call).await
    }

    /// Reports without waiting. One try.
    pub async fn heartbeat(
        &self,
        node: &str,
        request: &SyncRequest,
    ) -> Result<SyncResponse, ControlPlaneError> {
        let call = Call::post(agent(node, "heartbeat"), request)?
            .up_to(CONFIGURATION_BYTES)
            .timeout(WAIT_MARGIN);
        self.once(call).await
    }
}

/// A path and query under construction.
#[derive(Clone, Debug)]
struct Target(String);

impl Target {
    const fn new(path: String) -> Self {
        Self(path)
    }

    /// Adds something that is ours.
    fn part(mut self, text: &str) -> Self {
        self.0.push_str(text);
        self
    }

    /// Adds something that is not ours.
    fn segment(mut self, text: &str) -> Self {
        encode(&mut self.0, text);
        self
    }

    fn query<V: Display>(mut self, key: &str, value: Option<&V>) -> Self {
        if let Some(value) = value {
            self.0.push(if self.0.contains('?') { '&' } else { '?' });
            self.0.push_str(key);
            self.0.push('=');
            encode(&mut self.0, &value.to_string());
        }
        self
    }

    fn page(self, page: &Page) -> Self {
        self.query("page_size", page.page_size.as_ref())
            .query("page_token", page.page_token.as_ref())
    }

    fn dry_run(self, options: &WriteOptions) -> Self {
        self.query("dry_run", options.dry_run.then_some(&true))
    }
}

fn object(collection: Collection, name: &str) -> Target {
    Target::new(format!("/v1/{collection}/")).segment(name)
}

fn agent(node: &str, verb: &str) -> String {
    Target::new("/v1/agents/".to_owned())
        .segment(node)
        .part(":")
        .part(verb)
        .0
}

fn empty() -> Value {
    Value::Object(serde_json::Map::new())
}
