//! Rounds: in each one every contender runs a short batch, so that other load of the machine affects
//! all of them equally. A ratio is computed within a round; the result is the median over the rounds.

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

/// Something to measure: its own loop, so that there is no overhead per repetition.
#[derive(Clone)]
pub struct Contender<'a> {
    name: String,
    cores: Cores,
    repeat: Arc<dyn Fn(u64) + Send + Sync + 'a>,
}

impl<'a> Contender<'a> {
    /// On one thread.
    pub fn new(name: impl Into<String>, repeat: impl Fn(u64) + Send + Sync + 'a) -> Self {
        Self {
            name: name.into(),
            cores: Cores::One,
            repeat: Arc::new(repeat),
        }
    }

    /// The same on two concurrent threads, as its name tells.
    #[must_use]
    pub fn on_two_threads(&self) -> Self {
        self.on(Cores::Two, TWO_THREADS)
    }

    /// The same on one thread, while another spins without memory access: many processors raise their clock for
    /// a single busy core, so a comparison of two threads with that would measure the clock. Its name tells.
    #[must_use]
    pub fn beside_a_spin(&self) -> Self {
        self.on(Cores::OneBesideASpin, BESIDE_A_SPIN)
    }

    fn on(&self, cores: Cores, ending: &str) -> Self {
        Self {
            name: format!("{}{ending}", self.name),
            cores,
            repeat: Arc::clone(&self.repeat),
        }
    }

    /// Seconds per repetition; of both threads together, if there are two.
    fn run(&self, repetitions: u64) -> f64 {
        match self.cores {
            Cores::One => timed(|| (self.repeat)(repetitions)) / repetitions as f64,
            Cores::OneBesideASpin => self.run_beside_a_spin(repetitions),
            Cores::Two => self.run_twice(repetitions),
        }
    }

    fn run_beside_a_spin(&self, repetitions: u64) -> f64 {
        let (spins, done) = (AtomicBool::new(false), AtomicBool::new(false));
        thread::scope(|scope| {
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
            (self.repeat)(warm_up(repetitions));
            let took = timed(|| (self.repeat)(repetitions));
            done.store(true, Ordering::SeqCst);
            took / repetitions as f64
        })
    }

    fn run_twice(&self, repetitions: u64) -> f64 {
        let ready = AtomicUsize::new(0);
        let one = || {
            (self.repeat)(warm_up(repetitions));
            ready.fetch_add(1, Ordering::SeqCst);
            while ready.load(Ordering::SeqCst) < 2 {
                spin_loop();
            }
            repetitions as f64 / timed(|| (self.repeat)(repetitions))
        };
        let per_second: f64 = thread::scope(|scope| {
            let threads = [scope.spawn(one), scope.spawn(one)];
            let ended = threads.into_iter().filter_map(|thread| thread.join().ok());
            ended.sum()
        });
        1.0 / per_second
    }
}

/// The activity of the cores during a measurement.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cores {
    One,
    OneBesideASpin,
    Two,
}

/// A core that has just been woken is slow; that of the main thread has been running.
fn warm_up(repetitions: u64) -> u64 {
    repetitions.div_ceil(2)
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
    /// Measures. A batch takes about this long; its number of repetitions is calibrated first.
    pub fn measure(contenders: &[Contender<'_>], rounds: usize, batch: Duration) -> Self {
        let repetitions: Vec<u64> = contenders
            .iter()
            .map(|contender| calibrated(contender, batch))
            .collect();
        let mut seconds: HashMap<String, Vec<f64>> = HashMap::new();
        for round in 0..rounds {
            for turn in 0..contenders.len() {
                // The order changes, so that no contender always follows the same one.
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

    /// The ratio of the times of two contenders: the median of the ratios of all rounds.
    pub fn ratio(&self, one: &str, other: &str) -> f64 {
        let ratios = self.of(one).iter().zip(self.of(other)).map(|(a, b)| a / b);
        median(ratios.collect())
    }

    /// The throughput of two threads relative to one, at the same clock rate.
    pub fn scaling(&self, name: &str) -> f64 {
        self.ratio(
            &format!("{name}{BESIDE_A_SPIN}"),
            &format!("{name}{TWO_THREADS}"),
        )
    }

    /// The same relative to one that may have a higher clock rate, because the other core is idle.
    pub fn scaling_from_alone(&self, name: &str) -> f64 {
        self.ratio(name, &format!("{name}{TWO_THREADS}"))
    }

    /// The fastest of several.
    pub fn fastest<'n>(&self, names: &[&'n str]) -> &'n str {
        let by_time = |a: &&str, b: &&str| self.seconds(a).total_cmp(&self.seconds(b));
        names.iter().copied().min_by(by_time).unwrap_or_default()
    }

    /// The 10th, 50th and 90th percentile in nanoseconds, which show the noise.
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
        let threads = if contender.cores == Cores::Two {
            2.0
        } else {
            1.0
        };
        let target = batch.as_secs_f64() / threads;
        if took * 4.0 >= target {
            return ((repetitions as f64 * target / took) as u64).max(1);
        }
        repetitions *= 4;
    }
}

/// The median; the mean of the two middle values if their number is even. NaN if empty.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => values[count / 2],
        count => f64::midpoint(values[count / 2 - 1], values[count / 2]),
    }
}
