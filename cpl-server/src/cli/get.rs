//! `cpl get`.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use cpl_api::object::{ListResponse, Object, WatchEvent};
use cpl_api::routes::{Collection, ListQuery};
use serde_json::{Value, json};

use super::failure::{Exit, Failure, Outcome};
use super::kind::{self, Named, Selection};
use super::output::View;
use super::session::{Session, to_value};
use super::views;
use super::watch;

/// What `cpl get` takes.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct GetArgs {
    /// KIND, KIND NAME... or KIND/NAME...
    #[arg(required = true, value_name = "OBJECT")]
    pub objects: Vec<String>,
    /// Only objects with all of these labels
    #[arg(short = 'l', long = "selector", value_name = "KEY=VALUE", value_delimiter = ',', value_parser = label)]
    pub labels: Vec<(String, String)>,
    /// Only objects of this tenant
    #[arg(long, value_name = "NAME")]
    pub tenant: Option<String>,
    /// Go on and print every change
    #[arg(short, long)]
    pub watch: bool,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Prints objects.
///
/// # Errors
/// The server's refusal; with `--watch` also what ended the watch.
pub async fn run(args: &GetArgs, session: &mut Session<'_>) -> Outcome {
    let wanted = match Selection::read(&args.objects).map_err(Failure::invalid)? {
        Selection::All(kind) => Wanted::all(kind, args),
        Selection::These(_) if !args.labels.is_empty() || args.tenant.is_some() => {
            let what =
                "--selector and --tenant choose from all objects of a kind; leave the names out";
            return Err(Failure::invalid(what));
        },
        Selection::These(named) if args.watch => Wanted::these(named)?,
        Selection::These(named) => return some(named, session).await,
    };
    let mut list = session.client.list_all(wanted.kind, &wanted.query).await?;
    list.items.retain(|object| wanted.has(object));
    let missing = |name: &&String| {
        !list
            .items
            .iter()
            .any(|object| object.metadata.name == **name)
    };
    if let Some(name) = wanted.names.iter().find(missing) {
        let noun = kind::singular(wanted.kind);
        let what = format!("there is no {noun} named {name}");
        return Err(Failure::new(Exit::NotFound, what));
    }
    if args.watch {
        return follow(&wanted, list, session).await;
    }
    let view = view(
        wanted.kind,
        &list.items,
        to_value(&list)?,
        session.out.wide(),
    );
    session.out.show(&view)?;
    Ok(Exit::Success)
}

/// What is to be shown of a kind.
struct Wanted {
    kind: Collection,
    query: ListQuery,
    names: BTreeSet<String>,
}

impl Wanted {
    fn all(kind: Collection, args: &GetArgs) -> Self {
        let query = ListQuery {
            labels: args.labels.iter().cloned().collect::<BTreeMap<_, _>>(),
            tenant: args.tenant.clone(),
            ..ListQuery::default()
        };
        Self {
            kind,
            query,
            names: BTreeSet::new(),
        }
    }

    fn these(named: Vec<Named>) -> Result<Self, Failure> {
        let kind = named.first().map_or(Collection::Nodes, |first| first.kind);
        if named.iter().any(|object| object.kind != kind) {
            return Err(Failure::invalid("--watch follows objects of one kind"));
        }
        let names = named.into_iter().map(|object| object.name).collect();
        Ok(Self {
            kind,
            query: ListQuery::default(),
            names,
        })
    }

    fn has(&self, object: &Object) -> bool {
        let meta = &object.metadata;
        let labelled = self
            .query
            .labels
            .iter()
            .all(|(k, v)| meta.labels.get(k) == Some(v));
        let owned = self.query.tenant.is_none() || self.query.tenant == meta.tenant;
        object.kind == self.kind.kind() && labelled && owned && self.names_it(&meta.name)
    }

    fn names_it(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.contains(name)
    }
}

async fn some(named: Vec<Named>, session: &mut Session<'_>) -> Outcome {
    let mut found: Vec<(Collection, Vec<Object>)> = Vec::new();
    let mut values = Vec::new();
    for Named { kind, name } in &named {
        let object = session.client.get(*kind, name).await?;
        values.push(to_value(&object)?);
        match found.iter_mut().find(|(of, _)| of == kind) {
            Some((_, objects)) => objects.push(object),
            None => found.push((*kind, vec![object])),
        }
    }
    let value = match values.as_mut_slice() {
        [one] => one.take(),
        _ => json!({ "items": values }),
    };
    if session.out.for_programs() {
        let names = named
            .iter()
            .map(|o| format!("{}/{}", kind::singular(o.kind), o.name));
        let (kind, objects) = (Collection::Nodes, []);
        let view = View {
            names: names.collect(),
            ..view(kind, &objects, value, false)
        };
        session.out.show(&view)?;
        return Ok(Exit::Success);
    }
    for (index, (kind, objects)) in found.iter().enumerate() {
        if index > 0 {
            session.out.text("\n")?;
        }
        session
            .out
            .show(&view(*kind, objects, Value::Null, session.out.wide()))?;
    }
    Ok(Exit::Success)
}

fn view(kind: Collection, objects: &[Object], value: Value, wide: bool) -> View {
    let mut table = views::table(kind, wide);
    for object in objects {
        table.row(views::row(kind, object, wide));
    }
    let noun = kind::singular(kind);
    let names = objects
        .iter()
        .map(|object| format!("{noun}/{}", object.metadata.name));
    View {
        value,
        table,
        names: names.collect(),
        nothing: format!("there is no such {noun}"),
    }
}

async fn follow(wanted: &Wanted, list: ListResponse<Object>, session: &mut Session<'_>) -> Outcome {
    let wide = session.out.wide();
    let noun = kind::singular(wanted.kind);
    let mut rows = view(wanted.kind, &list.items, Value::Null, wide);
    if session.out.for_programs() {
        for object in &list.items {
            let event = WatchEvent::Put {
                object: Box::new(object.clone()),
            };
            watch::print(&event, session.out)?;
        }
    } else {
        session.out.show(&rows)?;
    }
    let mut events = session.client.watch(Some(wanted.kind), Some(list.cursor));
    while let Some(seen) = events.next().await {
        let event = seen?.event;
        match &event {
            WatchEvent::Put { object } if wanted.has(object) => {
                if session.out.for_programs() {
                    watch::print(&event, session.out)?;
                    continue;
                }
                // Its line is as wide as the list was, so that columns stay where they were.
                rows.table.row(views::row(wanted.kind, object, wide));
                session.out.last_row(&mut rows.table)?;
            },
            WatchEvent::Delete { name, kind }
                if kind == wanted.kind.kind() && wanted.names_it(name) =>
            {
                if session.out.for_programs() {
                    watch::print(&event, session.out)?;
                } else {
                    session.out.text(&format!("{noun}/{name} deleted\n"))?;
                }
            },
            WatchEvent::Put { .. } | WatchEvent::Delete { .. } | WatchEvent::Bookmark => {},
        }
    }
    Ok(Exit::Success)
}
