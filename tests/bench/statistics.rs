//! What is said about several values of one figure: the median, the smallest and the greatest; and quantiles of many.
//! Called by every part for its latencies, and by the page for its cells.

/// Several values of one figure, one for each round.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    /// `None` if there are no values.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        Some(Self { median: quantile(&sorted, 0.5)?, min: *sorted.first()?, max: *sorted.last()? })
    }
}

/// The value that this part (0.5: the median, 0.99: the 99th percentile) of the sorted values does not exceed. Between two
/// values it interpolates, so that the median of an even number of rounds favours neither side. `None` if there are no values.
pub fn quantile(sorted: &[f64], part: f64) -> Option<f64> {
    let place = part * sorted.len().checked_sub(1)? as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    Some(below + (above - below) * place.fract())
}

/// `None` if there are no values.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}
