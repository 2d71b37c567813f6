//! Opens the authorize page for the user, without a browser.

use crate::answer::Answer;
use crate::authorize;
use crate::clock::millis;
use crate::contract::Findings;
use crate::core::Core;
use crate::record::{RequestRecord, Tolerance};
use crate::recording::{Ending, close};
use crate::request::Incoming;
use crate::routing::{ONE_SLASH, Route, fold_slashes};
use http::{Method, StatusCode};

/// Lets the user open an authorize URL and decide, without a browser.
pub(crate) fn authorize(core: &Core, incoming: &Incoming, approve: bool) -> Result<String, String> {
    let not_a_page = || Err("the path is not that of an authorize endpoint".into());
    let folded = fold_slashes(&incoming.path);
    let path = folded.as_deref().unwrap_or(&incoming.path);
    let Route::Coze(endpoint, path_ids) = core.routes.find(&Method::GET, path) else {
        return not_a_page();
    };
    if !endpoint.is_page() || (folded.is_some() && !core.options.lenient) {
        return not_a_page();
    }
    let now = core.now();
    let log_id = core.next_log_id(now);
    let record = RequestRecord::of(incoming, Some(endpoint), log_id, millis(now), None, None);
    let number = core.log.open(record);
    let mut findings = Findings::new(core.options.lenient, number, Some(endpoint));
    if folded.is_some() {
        findings.tolerates(Tolerance::DoubleSlash, "path", ONE_SLASH);
    }
    let decided = authorize::check(core, endpoint, &path_ids, &incoming.query, &mut findings)
        .and_then(|request| {
            authorize::decide(core, &request, approve)
                .map_err(|_| "the operating system provided no random bytes".to_owned())
        });
    let status = if decided.is_ok() {
        StatusCode::FOUND
    } else {
        StatusCode::BAD_REQUEST
    };
    close(
        core,
        number,
        &Ending::answer(Answer::empty(status)),
        Vec::new(),
        findings,
    );
    decided
}
