//! How long a list of many records takes.

use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::api::{self, Lane};
use crate::report::{Promise, Row, Unit};
use crate::rounds::{self, AsSide};
use crate::side::{Plan, Side};

/// Images of the list.
const IMAGES: usize = 10_000;

/// Clients that make them.
const MAKERS: usize = 16;

/// Lists of one round, of which the median counts.
const LISTS: usize = 5;

/// A side whose daemon has the images.
struct Lister {
    side: Side,
    runtime: tokio::runtime::Runtime,
    lane: Lane,
}

impl AsSide for Lister {
    fn as_side(&self) -> &Side {
        &self.side
    }
}

/// `Images.List` of 10,000 images with two labels each: all of them, and the one that a filter on
/// the name wants.
///
/// # Errors
///
/// A call fails, or the list is not whole.
pub fn measure(plan: &Plan) -> Result<Vec<Row>> {
    let mut sides: Vec<Lister> =
        plan.sides(false)?.into_iter().map(Lister::new).collect::<Result<_>>()?;
    let samples = rounds::interleave(plan, plan.rounds(9, 2), &mut sides, |lister| lister.run())?;
    let row = |what: &str, at| Row {
        what: format!("list of {IMAGES} images, {what}"),
        unit: Unit::Seconds,
        values: plan.medians(&samples, at),
        promise: Promise::AtMost(0.5),
    };
    Ok(vec![row("all", 0), row("one by a filter", 1)])
}

fn name(number: usize) -> String {
    format!("registry.example/team-{}/service-{number}:1.{}", number % 40, number % 7)
}

impl Lister {
    fn new(side: Side) -> Result<Lister> {
        let runtime = api::runtime()?;
        let lane = runtime.block_on(async {
            let mut lanes = Lane::connect_many(&side.world, MAKERS).await?;
            let makers = lanes.iter().enumerate().map(|(at, lane)| async move {
                for number in (at..IMAGES).step_by(MAKERS) {
                    lane.create_image(&name(number), number).await?;
                }
                anyhow::Ok(())
            });
            api::all(makers.collect()).await?;
            lanes.pop().context("no client")
        })?;
        Ok(Lister { side, runtime, lane })
    }

    fn run(&mut self) -> Result<Vec<f64>> {
        let lane = &self.lane;
        self.runtime.block_on(async {
            let one = format!("name=={:?}", name(IMAGES / 2));
            let mut medians = Vec::new();
            for (filters, wanted) in [(vec![], IMAGES), (vec![one], 1)] {
                let mut taken = Vec::with_capacity(LISTS);
                for _ in 0..LISTS {
                    let begin = Instant::now();
                    let count = lane.count_images(filters.clone()).await?;
                    taken.push(begin.elapsed().as_secs_f64());
                    ensure!(count == wanted, "{count} images of {wanted}");
                }
                medians.push(rounds::middle(&mut taken));
            }
            Ok(medians)
        })
    }
}
