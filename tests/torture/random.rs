//! Random delays and kill times.

use std::time::Duration;

/// A uniformly distributed duration.
pub(crate) fn between(least: Duration, most: Duration) -> Duration {
    let fraction = getrandom::u32().map_or(0.5, |random| f64::from(random) / f64::from(u32::MAX));
    least + most.saturating_sub(least).mul_f64(fraction)
}
