//! A server that computes, as a calculation: its cores are shared equally by whatever runs on it (processor sharing). No time
//! passes here by itself: the caller says what time it is. `farm.rs` runs it behind real sockets, `virtual_time.rs` without any.

/// What a server is made of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spec {
    pub cores: u32,
    /// Work per second of a core that does nothing else.
    pub speed: f64,
    /// Processes of somebody else's that come and go, each as greedy as a request of ours.
    pub visiting: u32,
    /// Such processes that are always there.
    pub lasting: u32,
}

impl Spec {
    /// The work it can do for us in a second, on average: half the time the visiting load is there. Processor sharing leaves us half of
    /// the server at the least.
    pub fn capacity(&self) -> f64 {
        let beside = |foreign: u32| {
            let free = f64::from(self.cores.saturating_sub(foreign));
            free.max(0.5 * f64::from(self.cores)) * self.speed
        };
        let alone = f64::from(self.cores) * self.speed;
        let without = if self.lasting == 0 { alone } else { beside(self.lasting) };
        if self.visiting == 0 { without } else { (without + beside(self.lasting + self.visiting)) / 2.0 }
    }
}

/// A request being computed.
#[derive(Clone, Copy, Debug)]
struct Job<Id> {
    id: Id,
    /// Seconds of an undisturbed core of speed 1.
    left: f64,
}

/// A server at some moment. `Id` tells its jobs apart.
#[derive(Clone, Debug)]
pub struct Server<Id> {
    pub spec: Spec,
    /// Whether the visiting load is there.
    pub disturbed: bool,
    jobs: Vec<Job<Id>>,
    /// Until when this is true, in seconds.
    now: f64,
    /// Seconds of processor time used since the last look at it.
    busy: f64,
    looked: f64,
}

/// Less work than this is none: what rounding leaves.
const NOTHING: f64 = 1e-9;

impl<Id: Copy + PartialEq> Server<Id> {
    pub fn new(spec: Spec) -> Self {
        Self { spec, disturbed: false, jobs: Vec::new(), now: 0.0, busy: 0.0, looked: 0.0 }
    }

    fn running(&self, jobs: usize) -> f64 {
        let visiting = if self.disturbed { self.spec.visiting } else { 0 };
        jobs as f64 + f64::from(self.spec.lasting + visiting)
    }

    /// Work per second that each of so many jobs gets.
    fn rate(&self, jobs: usize) -> f64 {
        self.spec.speed * (f64::from(self.spec.cores) / self.running(jobs).max(1.0)).min(1.0)
    }

    /// Lets time pass until `now`. Gives the jobs that are done.
    pub fn advance(&mut self, now: f64) -> Vec<Id> {
        let mut done = Vec::new();
        while self.now < now {
            let rate = self.rate(self.jobs.len());
            let first = self.jobs.iter().map(|job| job.left).fold(f64::INFINITY, f64::min);
            let step = (first.max(0.0) / rate).min(now - self.now);
            self.busy += step * self.running(self.jobs.len()).min(f64::from(self.spec.cores));
            for job in &mut self.jobs {
                job.left -= step * rate;
            }
            // When the first job ends exactly now, rounding must not keep this loop from its end.
            self.now = if first / rate <= now - self.now { self.now + step } else { now };
            self.jobs.retain(|job| {
                let over = job.left <= NOTHING;
                if over {
                    done.push(job.id);
                }
                !over
            });
        }
        done
    }

    /// A request comes. The server must have been advanced to this moment.
    pub fn add(&mut self, id: Id, work: f64) {
        self.jobs.push(Job { id, left: work });
    }

    /// A request is abandoned.
    pub fn abandon(&mut self, id: Id) {
        self.jobs.retain(|job| job.id != id);
    }

    /// When the next job is done, if nothing changes.
    pub fn next_end(&self) -> Option<f64> {
        let first = self.jobs.iter().map(|job| job.left).min_by(f64::total_cmp)?;
        Some(self.now + first.max(0.0) / self.rate(self.jobs.len()))
    }

    /// Percent of the cores that was busy since the last such look.
    pub fn look_at_load(&mut self) -> f64 {
        let elapsed = self.now - self.looked;
        let load =
            if elapsed > 0.0 { 100.0 * self.busy / (elapsed * f64::from(self.spec.cores)) } else { 0.0 };
        (self.busy, self.looked) = (0.0, self.now);
        load.min(100.0)
    }

    /// Seconds that a request with this work would take if it came now and nothing came after it.
    pub fn time_for(&self, work: f64) -> f64 {
        let mut left: Vec<f64> = self.jobs.iter().map(|job| job.left).collect();
        left.push(work);
        left.sort_by(f64::total_cmp);
        let (mut time, mut done) = (0.0, 0.0);
        for (ended, work_left) in left.iter().enumerate() {
            time += (work_left - done) / self.rate(left.len() - ended);
            done = *work_left;
            if *work_left >= work {
                break;
            }
        }
        time
    }

    pub fn jobs(&self) -> usize {
        self.jobs.len()
    }
}
