//! Rounds: in each one every contender runs a short batch, so that whatever the machine does besides strikes
//! all of them alike. A ratio is taken within a round; what counts is the median over the rounds.

use std::{
    collections::HashMap,
    hint::{black_box, spin_loop},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// Something to measure: a loop of its own, so that nothing stands between it and what it repeats.
#[derive(Clone)]
pub struct Contender<'a> {
    name: String,
    threads: usize,
    /// Whether the other core turns in circles meanwhile.
    beside_a_spin: bool,
    repeat: Arc<dyn Fn(u64) + Send + Sync + 'a>,
}

impl<'a> Contender<'a> {
    /// On one thread.
    pub fn new(name: impl Into<String>, repeat: impl Fn(u64) + Send + Sync + 'a) -> Self {
        Self {
            name: name.into(),
            threads: 1,
            beside_a_spin: false,
            repeat: Arc::new(repeat),
        }
    }

    /// The same on two threads at once; its name says so.
    #[must_use]
    pub fn on_two_threads(&self) -> Self {
        Self {
            name: format!("{}{TWO_THREADS}", self.name),
            threads: 2,
            beside_a_spin: false,
            repeat: Arc::clone(&self.repeat),
        }
    }

    /// The same on one thread, while another turns in circles and touches no memory: many processors raise their clock for
    /// a core that is busy alone, and two threads against that would measure the clock. Its name says so.
    #[must_use]
    pub fn beside_a_spin(&self) -> Self {
        Self {
            name: format!("{}{BESIDE_A_SPIN}", self.name),
            threads: 1,
            beside_a_spin: true,
            repeat: Arc::clone(&self.repeat),
        }
    }

    /// Seconds for one repetition; of all threads together, if there are several.
    fn run(&self, repetitions: u64) -> f64 {
        if self.beside_a_spin {
            let (spins, done) = (AtomicBool::new(false), AtomicBool::new(false));
            return thread::scope(|scope| {
                scope.spawn(|| {
                    spins.store(true, Ordering::SeqCst);
                    while !done.load(Ordering::Relaxed) {
                        for turn in 0..1000 {
                            black_box(turn);
                        }
                    }
                });
                while !spins.load(Ordering::SeqCst) {
                    spin_loop();
                }
                (self.repeat)(repetitions.div_ceil(2));
                let took = timed(|| (self.repeat)(repetitions));
                done.store(true, Ordering::SeqCst);
                took / repetitions as f64
            });
        }
        if self.threads == 1 {
            return timed(|| (self.repeat)(repetitions)) / repetitions as f64;
        }
        let ready = AtomicUsize::new(0);
        let per_second: f64 = thread::scope(|scope| {
            let threads: Vec<_> = (0..self.threads)
                .map(|_| {
                    scope.spawn(|| {
                        // The first thread has run all along; so must these two have.
                        (self.repeat)(repetitions.div_ceil(2));
                        ready.fetch_add(1, Ordering::SeqCst);
                        while ready.load(Ordering::SeqCst) < self.threads {
                            spin_loop();
                        }
                        repetitions as f64 / timed(|| (self.repeat)(repetitions))
                    })
                })
                .collect();
            threads
                .into_iter()
                .filter_map(|thread| thread.join().ok())
                .sum()
        });
        1.0 / per_second
    }
}

const TWO_THREADS: &str = ", two threads";
const BESIDE_A_SPIN: &str = ", beside a spin";

fn timed(work: impl FnOnce()) -> f64 {
    let began = Instant::now();
    work();
    began.elapsed().as_secs_f64()
}

/// Seconds per repetition of all contenders, in all rounds.
pub struct Rounds(HashMap<String, Vec<f64>>);

impl Rounds {
    /// Measures. A batch takes about so long; how many repetitions that are is found out beforehand.
    pub fn measure(contenders: &[Contender<'_>], rounds: usize, batch: Duration) -> Self {
        let repetitions: Vec<u64> = contenders
            .iter()
            .map(|contender| calibrated(contender, batch))
            .collect();
        let mut seconds: HashMap<String, Vec<f64>> = HashMap::new();
        for round in 0..rounds {
            for turn in 0..contenders.len() {
                // Nobody always comes after the same one.
                let index = (turn + round) % contenders.len();
                let contender = &contenders[index];
                let taken = contender.run(repetitions[index]);
                seconds
                    .entry(contender.name.clone())
                    .or_default()
                    .push(taken);
            }
        }
        Self(seconds)
    }

    fn of(&self, name: &str) -> &[f64] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    /// The median, in seconds.
    pub fn seconds(&self, name: &str) -> f64 {
        median(self.of(name).to_vec())
    }

    /// The median, in nanoseconds.
    pub fn nanos(&self, name: &str) -> f64 {
        self.seconds(name) * 1e9
    }

    /// How many times as long one takes as the other: the median of the rounds' ratios.
    pub fn ratio(&self, one: &str, other: &str) -> f64 {
        let ratios = self.of(one).iter().zip(self.of(other)).map(|(a, b)| a / b);
        median(ratios.collect())
    }

    /// How many times as much two threads do together as one does, by the same clock.
    pub fn scaling(&self, name: &str) -> f64 {
        self.ratio(
            &format!("{name}{BESIDE_A_SPIN}"),
            &format!("{name}{TWO_THREADS}"),
        )
    }

    /// The same against one that may have a higher clock, because the other core has nothing to do.
    pub fn scaling_from_alone(&self, name: &str) -> f64 {
        self.ratio(name, &format!("{name}{TWO_THREADS}"))
    }

    /// Of several, the fastest one.
    pub fn fastest<'n>(&self, names: &[&'n str]) -> &'n str {
        let by_time = |a: &&str, b: &&str| self.seconds(a).total_cmp(&self.seconds(b));
        names.iter().copied().min_by(by_time).unwrap_or_default()
    }

    /// The tenth, the fiftieth and the ninetieth percentile, in nanoseconds: how noisy it was.
    pub fn spread(&self, name: &str) -> String {
        let mut sorted = self.of(name).to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let index = (sorted.len().saturating_sub(1)) as f64 * share;
            sorted
                .get(index.round() as usize)
                .copied()
                .unwrap_or_default()
                * 1e9
        };
        format!("{:.1} / {:.1} / {:.1} ns", at(0.1), at(0.5), at(0.9))
    }
}

fn calibrated(contender: &Contender<'_>, batch: Duration) -> u64 {
    let mut repetitions = 1;
    loop {
        let took = contender.run(repetitions) * repetitions as f64;
        let target = batch.as_secs_f64() / contender.threads as f64;
        if took * 4.0 >= target {
            return ((repetitions as f64 * target / took) as u64).max(1);
        }
        repetitions *= 4;
    }
}

/// The middle one; with an even number, the mean of the two in the middle. NaN when there is none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => values[count / 2],
        count => f64::midpoint(values[count / 2 - 1], values[count / 2]),
    }
}
