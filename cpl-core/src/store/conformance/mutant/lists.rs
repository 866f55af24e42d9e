//! Defects of lists.

use super::defect::Defect;
use super::store::Mutant;
use crate::limits;
use crate::store::{Bound, Entry, Error, Key, Kind, ListRequest, Page, PageToken, Range, Revision};

pub(super) async fn list(
    mutant: &Mutant,
    request: ListRequest,
    compacted: Revision,
) -> Result<Page, Error> {
    let asked = request.clone();
    let request = changed(mutant, request, compacted).await?;
    let mut page = mutant.inner.list(request.clone()).await?;
    match mutant.defect {
        Defect::EndsAfterOnePage => page.next = None,
        Defect::ListsBackwards => page.entries.reverse(),
        Defect::TellsAPageTooNew => page.at = mutant.inner.head().await?,
        Defect::CompactsLiveValues => page.entries.retain(|e| e.meta.mod_revision > compacted),
        Defect::AnnouncesAPhantom => {
            let phantom = page
                .entries
                .last()
                .map(|last| token(&page, last, &asked.range));
            page.next = page.next.or(phantom);
        },
        Defect::IgnoresPageBytes => {
            while let Some(next) = page.next.take() {
                let rest = ListRequest {
                    page: Some(next),
                    ..request.clone()
                };
                let more = mutant.inner.list(rest).await?;
                page.entries.extend(more.entries);
                page.next = more.next;
                if page.entries.len() >= request.limit.min(limits::PAGE_ENTRIES) {
                    break;
                }
            }
        },
        Defect::IncludesTheEnd => {
            if let Some(next) = &mut page.next {
                next.range = asked.range.clone();
            }
        },
        _ => {},
    }
    Ok(page)
}

/// What the store below is asked instead.
async fn changed(
    mutant: &Mutant,
    mut request: ListRequest,
    compacted: Revision,
) -> Result<ListRequest, Error> {
    let head = mutant.inner.head().await?;
    match mutant.defect {
        Defect::IgnoresThePageLimit => request.limit = limits::PAGE_ENTRIES,
        Defect::PinsEveryPageAnew => {
            if let Some(token) = &mut request.page {
                token.at = head;
            }
        },
        Defect::TakesAnyToken => {
            if let Some(token) = &mut request.page {
                token.range = request.range.clone();
                token.at.identity = head.identity;
            }
        },
        Defect::TakesATokenOfTheFuture => {
            if let Some(token) = &mut request.page {
                token.at.revision = token.at.revision.min(head.revision);
            }
        },
        Defect::RefusesTheCompactedRevision
            if request
                .page
                .as_ref()
                .is_some_and(|t| t.at.revision == compacted) =>
        {
            return Err(Error::new(Kind::Compacted { compacted }, "list a range"));
        },
        Defect::RefusesEmptyRanges => refuse_empty(&request.range)?,
        Defect::IncludesTheEnd => {
            request.range = with_its_end(&request.range)?;
            if let Some(token) = &mut request.page {
                token.range = request.range.clone();
            }
        },
        _ => {},
    }
    Ok(request)
}

fn token(page: &Page, last: &Entry, range: &Range) -> PageToken {
    PageToken {
        at: page.at,
        after: last.key.clone(),
        range: range.clone(),
    }
}

fn refuse_empty(range: &Range) -> Result<(), Error> {
    if let (Some(start), Bound::Before(end)) = (range.start(), range.end())
        && start >= end
    {
        return Err(Error::new(Kind::Invalid, "list a range"));
    }
    Ok(())
}

fn with_its_end(range: &Range) -> Result<Range, Error> {
    let (Some(start), Bound::Before(end)) = (range.start(), range.end()) else {
        return Ok(range.clone());
    };
    let mut after = end.as_bytes().to_vec();
    after.push(0);
    Ok(Range::between(
        start.clone(),
        Bound::Before(Key::new(after)?),
    ))
}
