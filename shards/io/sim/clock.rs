//! One host's monotonic clock: it began somewhere, and it is too fast or too slow.
//!
//! ```text
//!   local = base_local + (world - base_world) * (1 + rate)        a change of rate begins a new straight line
//! ```
//!
//! **Invariant**: local time never goes back, whatever rates it is given; they lie between -50 % and +100 %.

/// A piecewise straight line from the world's time to the host's, both in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    base_world: u64,
    base_local: u64,
    /// Nanoseconds gained in each one of the world's.
    rate: f64,
}

impl Clock {
    pub fn new(base_local: u64, drift_ppm: i64) -> Clock {
        Clock { base_world: 0, base_local, rate: rate(drift_ppm) }
    }

    /// The host's time at the world's time `world`.
    #[inline]
    pub fn local(&self, world: u64) -> u64 {
        let passed = world - self.base_world;
        if self.rate == 0.0 {
            return self.base_local + passed;
        }
        // Whole nanoseconds pass exactly; only what is gained or lost is rounded, down.
        let gained = (passed as f64 * self.rate).floor() as i64;
        (self.base_local + passed).saturating_add_signed(gained)
    }

    /// The first moment of the world at which the host's time is at least `local`.
    pub fn world(&self, local: u64) -> u64 {
        if local <= self.base_local {
            return self.base_world;
        }
        let passed = local - self.base_local;
        if self.rate == 0.0 {
            return self.base_world + passed;
        }
        let mut world = self.base_world + (passed as f64 / (1.0 + self.rate)) as u64;
        while self.local(world) < local {
            world += 1;
        }
        world
    }

    /// From `world` on it drifts by `drift_ppm`.
    pub fn set_drift(&mut self, world: u64, drift_ppm: i64) {
        *self = Clock { base_world: world, base_local: self.local(world), rate: rate(drift_ppm) };
    }
}

fn rate(drift_ppm: i64) -> f64 {
    drift_ppm.clamp(-500_000, 1_000_000) as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::Clock;

    #[test]
    fn clock_drifts_and_never_goes_back() {
        for ppm in [-400_000, -200, 0, 3, 200, 50_000, 900_000] {
            let mut clock = Clock::new(77, ppm);
            let mut before = 0;
            for step in 0..2_000u64 {
                let world = step * step * 31;
                let now = clock.local(world);
                assert!(now >= before, "{ppm} ppm: from {before} to {now}");
                before = now;
                let at = clock.world(now + 1_000);
                assert!(clock.local(at) >= now + 1_000 && clock.local(at - 1) < now + 1_000, "{ppm} ppm at {world}");
                if step == 1_000 {
                    clock.set_drift(world, -ppm / 2);
                }
            }
        }
        let clock = Clock::new(0, 100);
        assert_eq!(clock.local(1_000_000_000), 1_000_100_000);
    }
}
