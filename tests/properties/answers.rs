//! Token responses, device responses and errors: mutated, with all statuses.

use proptest::{prelude::*, sample::select, test_runner::RngSeed};

use crate::{
    bodies,
    checks::{
        device_answer::{self, Polled},
        error_body,
        token_answer::{self, By},
        world::Answer,
    },
};

/// Deterministic cases; fuzzing finds new ones.
pub(crate) fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        rng_seed: RngSeed::Fixed(20_261_128),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(cases(1000))]

    #[test]
    fn exactly_the_returned_refresh_token_is_stored(
        by in select(vec![By::Device, By::Web]), answer in bodies::token_answer(),
    ) {
        token_answer::check(by, &answer);
    }

    #[test]
    fn a_login_starts_if_possible_and_is_polled_until_its_expiry(
        answer in bodies::device_answer(), polled in select(Polled::ALL.to_vec()),
    ) {
        device_answer::check(&answer, polled);
    }

    #[test]
    fn an_error_is_parsed_in_every_shape_without_secrets(answer in bodies::error_body()) {
        error_body::check(&answer);
    }
}

#[test]
fn only_statuses_from_200_to_299_yield_a_token() {
    let token = r#"{"access_token":"at-hush-1","refresh_token":"rt-hush-1","expires_in":900}"#;
    let cut = &token[..token.len() - 1];
    let refused = r#"{"error":"invalid_grant","refresh_token":"rt-hush-1"}"#;
    for status in 100..600 {
        for body in [token, cut, refused] {
            token_answer::check(By::Web, &Answer::new(status, body));
            error_body::check(&Answer::new(status, body));
        }
    }
}

#[test]
fn a_truncated_response_keeps_a_complete_refresh_token() {
    for body in [
        r#"{"access_token":"at-hush-1","refresh_token":"rt-hush-\u00e9\n1","expires_in":-9.5e+2,"a":{"b":[true,null]}}"#,
        r#"{"refresh_token":"rt-hush-1é","error":0,"scope":[{"c":"d"}],"expires_in":1800000900.25}"#,
        r#"{"error":"invalid_grant","refresh_token":"rt-hush-1","expires_in":900}"#,
        r#"{"refresh_token":"rt-hush-1","expires_in":900,"error":"invalid_grant","x":1}"#,
    ] {
        for at in 0..=body.len() {
            for is_broken in [true, false] {
                let answer = Answer {
                    is_broken,
                    ..Answer::new(200, &body.as_bytes()[..at])
                };
                token_answer::check(By::Device, &answer);
            }
        }
    }
}
