//! Completes a request: records its outcome, and turns it into a response.

use crate::answer::{Answer, End, LOG_ID};
use crate::body::{MockBody, Part};
use crate::contract::Findings;
use crate::core::Core;
use crate::fault;
use crate::limits;
use crate::record::{Finding, Outcome};
use crate::stream;
use http::{HeaderValue, Response, header};

/// The outcome of a request.
pub(crate) enum Ending {
    Answer(Box<Answer>),
    Reset,
    Never,
}

impl Ending {
    pub(crate) fn answer(answer: Answer) -> Self {
        Self::Answer(Box::new(answer))
    }
}

/// Records the outcome of a request and notifies the observer.
pub(crate) fn close(
    core: &Core,
    number: u64,
    ending: &Ending,
    faults: Vec<String>,
    findings: Findings,
) {
    let outcome = match ending {
        Ending::Answer(answer) => Outcome::Answered {
            status: answer.status.as_u16(),
            error: answer.error.clone(),
        },
        Ending::Reset => Outcome::ConnectionReset,
        Ending::Never => Outcome::NeverAnswered,
    };
    let observer = core.options.observer.as_ref();
    let finding = Finding {
        outcome,
        faults,
        violations: findings.violations,
        unlisted: findings.unlisted,
        notes: findings.notes,
        observed: observer.is_some(),
    };
    let record = core.log.close(number, finding);
    if let (Some(observer), Some(record)) = (observer, record) {
        observer(&record);
    }
}

pub(crate) fn finish(
    core: &Core,
    answer: Answer,
    log_id: &str,
    skew_seconds: i64,
) -> Response<MockBody> {
    let Answer {
        status,
        mut headers,
        body,
        header_edits,
        end,
        parts,
        is_stream,
        stalls,
        ..
    } = answer
        .with_header(header::DATE, &fault::http_date(core.now(), skew_seconds))
        .with_header(LOG_ID, log_id);
    for (name, value) in header_edits {
        match value {
            Some(value) => headers.insert(name, value),
            None => headers.remove(name),
        };
    }
    let mut parts = match parts {
        None if is_stream => Some(stream::events(&body).map(Part::Bytes).collect()),
        parts => parts,
    };
    if let Some(parts) = parts.as_mut().filter(|_| stalls) {
        parts.push(Part::Pause(limits::LONGEST));
    }
    let sent = u64::try_from(body.len()).unwrap_or(u64::MAX);
    let promised = match end {
        End::Whole if parts.is_some() => None,
        End::Whole => Some(sent),
        End::Missing(bytes) => Some(sent.saturating_add(bytes)),
        End::NoLastChunk => None,
    };
    if let Some(length) = promised {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    let mut response = Response::new(match (end, parts) {
        (End::Whole, Some(parts)) => MockBody::of(parts),
        (End::Whole, None) => MockBody::whole(body),
        (End::Missing(_) | End::NoLastChunk, _) => MockBody::cut_off(body),
    });
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}
