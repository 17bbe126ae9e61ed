//! How long a list of many records takes.

use std::time::Instant;

use anyhow::{Result, ensure};

use crate::clients::{Clients, MANY};
use crate::report::{Promise, Row, Unit};
use crate::rounds;
use crate::side::Plan;

/// Images of the list.
const IMAGES: usize = 10_000;

/// Lists of one round, of which the median counts.
const LISTS: usize = 5;

/// `Images.List` of 10,000 images with two labels each: all of them, and the one that a filter on
/// the name wants.
///
/// # Errors
///
/// A call fails, or the list is not whole.
pub fn measure(plan: &Plan) -> Result<Vec<Row>> {
    let mut sides = Clients::of(plan, false, MANY)?;
    sides.iter().try_for_each(make)?;
    let samples = rounds::interleave(plan, plan.rounds(9, 2), &mut sides, list)?;
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

/// Makes the images.
fn make(clients: &Clients) -> Result<()> {
    clients.at_once(MANY, |at, lane| async move {
        for number in (at..IMAGES).step_by(MANY) {
            lane.create_image(&name(number), number).await?;
        }
        Ok(())
    })?;
    Ok(())
}

fn list(clients: &mut Clients) -> Result<Vec<f64>> {
    let lane = &clients.lanes[0];
    clients.block_on(async {
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
