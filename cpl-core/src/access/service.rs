//! Making, finding and ending tokens.

use std::sync::Arc;
use std::time::Duration;

use super::model::{Caller, Scope, TokenRecord};
use super::repo::{TOKEN, token_key};
use super::rules::{Secret, hash, parse, same};
use crate::clock::Clock;
use crate::error::{Error, Kind};
use crate::ids::{IdGen, TxnId};
use crate::store::{Entry, ListRequest, PageToken, Store};
use crate::txn::{AuditRecord, CommandTxn, Guard, Settled, audit_key, commit, decode};

/// How long a write of this slice may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What tokens need.
#[derive(Clone, Debug)]
pub struct AccessConfig {
    /// Where they lie.
    pub store: Arc<dyn Store>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Ids and secrets.
    pub ids: Arc<dyn IdGen>,
}

/// A token to be made.
#[derive(Clone, Debug)]
pub struct NewToken {
    /// Who will hold it.
    pub name: String,
    /// What they may do.
    pub scope: Scope,
    /// How long it lives; for ever when `None`.
    pub ttl: Option<Duration>,
    /// Who makes it.
    pub actor: String,
    /// By which request.
    pub request_id: String,
}

/// The tokens of a store.
#[derive(Clone, Debug)]
pub struct Tokens(AccessConfig);

impl Tokens {
    /// The tokens of this store.
    pub const fn new(config: AccessConfig) -> Self {
        Self(config)
    }

    /// Who holds this token, or `None` when it is not a token of this store or has ended. What is not
    /// known and what is wrong are not told apart.
    pub async fn find(&self, token: &str) -> Result<Option<Caller>, Error> {
        let Some(id) = parse(token) else {
            return Ok(None);
        };
        let Some((_, record)) = self.read(id).await? else {
            return Ok(None);
        };
        let ended = record
            .expires_at
            .is_some_and(|end| end <= self.0.clock.wall());
        if ended || !same(&record.sha256, &hash(token)) {
            return Ok(None);
        }
        Ok(Some(Caller {
            token: id.to_owned(),
            name: record.name,
            scope: record.scope,
        }))
    }

    /// Makes a token; the secret is in the answer and nowhere else.
    pub async fn create(&self, new: &NewToken) -> Result<(Secret, String, TokenRecord), Error> {
        let secret = Secret::draw(&*self.0.ids);
        let id = parse(secret.reveal()).unwrap_or_default().to_owned();
        let record = self.put(&id, hash(secret.reveal()), new).await?;
        Ok((secret, id, record))
    }

    /// Records a token that its holder drew: `sha256` is the hash of the whole text. Repeating it with
    /// the same hash changes nothing.
    ///
    /// # Errors
    /// `Invalid` when id or hash have not the form of one; `AlreadyExists` when the id is another's.
    pub async fn adopt(&self, id: &str, sha256: &str, new: &NewToken) -> Result<(), Error> {
        let hex = |text: &str, length| {
            text.len() == length && text.bytes().all(|b| b.is_ascii_hexdigit())
        };
        if !hex(id, 16) || !hex(sha256, 64) {
            let detail = "expected an id of 16 and a hash of 64 hexadecimal digits";
            return Err(Error::new(Kind::Invalid, "TOKEN_MALFORMED", detail));
        }
        match self.read(id).await? {
            Some((_, known)) if same(&known.sha256, sha256) && known.scope == new.scope => Ok(()),
            Some(_) => {
                let detail = "this token id is taken";
                Err(Error::new(Kind::AlreadyExists, "TOKEN_EXISTS", detail))
            },
            None => self.put(id, sha256.to_owned(), new).await.map(|_| ()),
        }
    }

    async fn put(&self, id: &str, sha256: String, new: &NewToken) -> Result<TokenRecord, Error> {
        let AccessConfig { clock, ids, .. } = &self.0;
        let now = clock.wall();
        let record = TokenRecord {
            name: new.name.clone(),
            scope: new.scope.clone(),
            sha256,
            created_at: now,
            expires_at: new.ttl.map(|ttl| now.plus(ttl)),
        };
        let audit = AuditRecord {
            at: now,
            actor: new.actor.clone(),
            action: "create_token".to_owned(),
            objects: vec![format!("Token/{id}")],
            request_id: new.request_id.clone(),
            config_version: None,
        };
        let key = audit_key(audit.at, &audit.request_id);
        let txn = CommandTxn::new(TxnId::fresh(&**ids), key, &audit);
        self.commit(txn.put(token_key(id), Guard::ABSENT, &record))
            .await?;
        Ok(record)
    }

    /// What is stored of a token.
    pub async fn get(&self, id: &str) -> Result<TokenRecord, Error> {
        let found = self.read(id).await?;
        found
            .map(|(_, record)| record)
            .ok_or_else(|| Error::not_found("token", id))
    }

    /// Ends a token at once.
    pub async fn revoke(&self, id: &str, actor: &str, request_id: &str) -> Result<(), Error> {
        let (guard, _) = self
            .read(id)
            .await?
            .ok_or_else(|| Error::not_found("token", id))?;
        let audit = AuditRecord {
            at: self.0.clock.wall(),
            actor: actor.to_owned(),
            action: "revoke_token".to_owned(),
            objects: vec![format!("Token/{id}")],
            request_id: request_id.to_owned(),
            config_version: None,
        };
        let key = audit_key(audit.at, &audit.request_id);
        let txn = CommandTxn::new(TxnId::fresh(&*self.0.ids), key, &audit);
        self.commit(txn.delete(token_key(id), guard)).await
    }

    /// One page of all tokens, in order of ids.
    pub async fn list(
        &self,
        limit: usize,
        page: Option<PageToken>,
    ) -> Result<(Vec<(String, TokenRecord)>, Option<PageToken>), Error> {
        let request = ListRequest {
            range: TOKEN.range(&[]),
            limit,
            page,
        };
        let page = self.0.store.list(request).await;
        let page = page.map_err(|error| Error::store("list tokens", error))?;
        let read = |entry: &Entry| {
            let id = TOKEN
                .parts(&entry.key)
                .and_then(|parts| parts.first().map(|id| (*id).to_owned()));
            let record = serde_json::from_slice(&entry.value);
            record
                .map(|r| (id.unwrap_or_default(), r))
                .map_err(|e| Error::corrupt(&entry.key, e))
        };
        let tokens = page.entries.iter().map(read).collect::<Result<_, _>>()?;
        Ok((tokens, page.next))
    }

    async fn commit(&self, txn: CommandTxn) -> Result<(), Error> {
        let AccessConfig { store, clock, ids } = &self.0;
        let deadline = clock.monotonic().plus(PATIENCE);
        match commit(&**store, &**clock, &**ids, txn, deadline).await? {
            Settled::Applied(_) => Ok(()),
            Settled::Lost { .. } => {
                let detail = "somebody else changed this token at the same time";
                Err(Error::new(Kind::Aborted, "TXN_CONFLICT", detail))
            },
        }
    }

    async fn read(&self, id: &str) -> Result<Option<(Guard, TokenRecord)>, Error> {
        let key = token_key(id);
        let read = self.0.store.get(key.key()).await;
        let read = read.map_err(|error| Error::store("look up a token", error))?;
        let guard = Guard::of(read.value.as_ref().map(|entry| &entry.meta));
        Ok(decode(read.value.as_ref())?.map(|record| (guard, record)))
    }
}
