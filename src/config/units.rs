//! Numbers with their units, as the files write them: durations, sizes,
//! percents, ranges of durations. A number whose unit is missing is refused,
//! with the ways to write it.

use std::num::NonZeroU32;
use std::time::Duration;

use super::model::After;

use super::model::Rate;

/// Longest duration that a file may name.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

const TIMES: [(&str, f64); 6] =
    [("us", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("d", 86_400.0)];

const SIZES: [(&str, f64); 7] = [
    ("B", 1.0),
    ("KB", 1e3),
    ("MB", 1e6),
    ("GB", 1e9),
    ("KiB", 1024.0),
    ("MiB", 1_048_576.0),
    ("GiB", 1_073_741_824.0),
];

/// The times of rates, in seconds.
const RATES: [(&str, u64); 4] = [("s", 1), ("min", 60), ("h", 3600), ("day", 86_400)];

/// `250ms`, `2s`, `1m30s`, `1.5h`; more than zero.
pub fn duration(text: &str) -> Result<Duration, String> {
    match pause(text)? {
        Duration::ZERO => Err("a duration of zero: it must be longer, such as `1s`".into()),
        duration => Ok(duration),
    }
}

/// As [`duration`], or `0s`.
pub fn pause(text: &str) -> Result<Duration, String> {
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let (number, after) = number(rest).ok_or_else(|| not_a_duration(text))?;
        let end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        if unit.is_empty() {
            return Err(format!("a duration needs a unit: write `{text}s` or `{text}ms`"));
        }
        let Some((_, factor)) = TIMES.iter().find(|(name, _)| *name == unit) else {
            return Err(format!("`{unit}` is no unit of time: use `ms`, `s`, `m`, `h` or `d`"));
        };
        seconds += number * factor;
        rest = after;
    }
    if text.is_empty() {
        return Err(not_a_duration(text));
    }
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if duration <= LONGEST => Ok(round(duration)),
        _ => Err("a duration of more than 366 days".into()),
    }
}

/// `512B`, `64KiB`, `1MB`; in bytes.
pub fn size(text: &str) -> Result<u64, String> {
    let not_a_size = || format!("`{text}` is no size: write it like `64KiB` or `1MB`");
    let (number, unit) = number(text).ok_or_else(not_a_size)?;
    match unit {
        "" => return Err(format!("a size needs a unit: write `{text}B` or `{text}KiB`")),
        "K" | "k" | "M" | "m" | "G" | "g" => {
            let unit = unit.to_ascii_uppercase();
            return Err(format!(
                "`{unit}` may mean 1000 or 1024 and their powers: write `{unit}B` or `{unit}iB`"
            ));
        }
        _ => {}
    }
    let Some((_, factor)) = SIZES.iter().find(|(name, _)| *name == unit) else {
        return Err(format!("`{unit}` is no unit of size: use `B`, `KB`, `MB`, `GB`, `KiB`, `MiB` or `GiB`"));
    };
    let bytes = number * factor;
    if bytes > 1e12 {
        return Err("a size of more than 1000 GB".into());
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let whole = bytes.round() as u64;
    Ok(whole)
}

/// `50/s`, `1000/min`, `20/h`, `5/day`; at most a million a second.
pub fn rate(text: &str) -> Result<Rate, String> {
    let not_a_rate = || format!("`{text}` is no rate: write it like `50/s`, `1000/min`, `20/h` or `5/day`");
    let (count, unit) = text.split_once('/').ok_or_else(|| match text.parse::<u32>() {
        Ok(_) => format!("a rate needs a time: write `{text}/s` or `{text}/min`"),
        Err(_) => not_a_rate(),
    })?;
    let Some((_, seconds)) = RATES.iter().find(|(name, _)| *name == unit) else {
        return Err(format!("`{unit}` is no time of a rate: use `s`, `min`, `h` or `day`"));
    };
    if count.is_empty() || !count.bytes().all(|b| b.is_ascii_digit()) {
        return Err(not_a_rate());
    }
    let count = count.parse::<u32>().ok().filter(|count| u64::from(*count) <= seconds * 1_000_000);
    let count =
        count.filter(|count| *count <= 1_000_000_000).ok_or("a rate of more than a million a second")?;
    let count = NonZeroU32::new(count).ok_or("a rate of 0: nothing would ever pass")?;
    Ok(Rate { count, period: Duration::from_secs(*seconds) })
}

/// A rate as a file would write it.
pub fn show_rate(rate: Rate) -> String {
    let unit = RATES.iter().find(|(_, seconds)| *seconds == rate.period.as_secs());
    format!("{}/{}", rate.count, unit.map_or("s", |(name, _)| name))
}

/// `20%`, `0.5%`; as a share from 0 to 1.
pub fn percent(text: &str) -> Result<f64, String> {
    let not_a_percent = || format!("`{text}` is no percentage: write it like `20%`");
    match number(text).ok_or_else(not_a_percent)? {
        (number, "%") if number <= 100.0 => Ok(number / 100.0),
        (_, "%") => Err("more than `100%`".into()),
        (_, "") => Err(format!("a percentage needs its sign: write `{text}%`")),
        _ => Err(not_a_percent()),
    }
}

/// `25ms..250ms`; the first is not the longer one.
pub fn range(text: &str) -> Result<(Duration, Duration), String> {
    let Some((first, last)) = text.split_once("..") else {
        return Err(format!("`{text}` is no range of durations: write it like `25ms..250ms`"));
    };
    let (first, last) = (duration(first.trim())?, duration(last.trim())?);
    if first > last {
        return Err("the range goes backwards: write the shorter duration first".into());
    }
    Ok((first, last))
}

/// `p95`, or a duration.
pub fn patience(text: &str) -> Result<After, String> {
    let Some(percentile) = text.strip_prefix('p') else {
        return duration(text).map(After::Time).map_err(|error| match error.contains("is no duration") {
            true => format!("`{text}` is neither a percentile such as `p95` nor a duration such as `50ms`"),
            false => error,
        });
    };
    match number(percentile) {
        Some((number, "")) if (50.0..=99.9).contains(&number) => {
            Ok(After::Percentile((number * 10.0).round() / 1000.0))
        }
        _ => Err(format!("`{text}` is no percentile from `p50` to `p99.9`")),
    }
}

/// A duration as a file would write it.
pub fn show(duration: Duration) -> String {
    let micros = duration.as_micros();
    match micros {
        0 => "0s".into(),
        _ if !micros.is_multiple_of(1000) => format!("{micros}us"),
        _ if !micros.is_multiple_of(1_000_000) => format!("{}ms", micros / 1000),
        _ => {
            let seconds = micros / 1_000_000;
            let parts = [(seconds / 3600, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
            parts.iter().filter(|(n, _)| *n > 0).map(|(n, unit)| format!("{n}{unit}")).collect()
        }
    }
}

fn not_a_duration(text: &str) -> String {
    format!("`{text}` is no duration: write it like `250ms`, `2s` or `1m30s`")
}

/// To whole microseconds: `0.1s` is 100 ms and nothing else.
fn round(duration: Duration) -> Duration {
    let micros = (duration.as_nanos() + 500) / 1000;
    Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
}

/// The digits at the beginning, perhaps with a decimal point, and what follows.
fn number(text: &str) -> Option<(f64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    let plain =
        digits.len() <= 20 && digits.starts_with(|c: char| c.is_ascii_digit()) && !digits.ends_with('.');
    Some((digits.parse().ok().filter(|_| plain)?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_carry_units() {
        for (text, millis) in [
            ("250ms", 250),
            ("2s", 2_000),
            ("1m30s", 90_000),
            ("1.5h", 5_400_000),
            ("0.1s", 100),
            ("1d", 86_400_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
            assert_eq!(duration(&show(Duration::from_millis(millis))), Ok(Duration::from_millis(millis)));
        }
        for text in
            ["", "5", "s", "5 s", "-5s", "5sec", "1s5", "1e3s", "999999d", "1..5s", ".5s", "5.s", "0s", "١s"]
        {
            assert!(duration(text).is_err(), "{text}");
        }
        assert_eq!(pause("0s"), Ok(Duration::ZERO));
        assert!(duration("5").is_err_and(|e| e.contains("`5s`")));
    }

    #[test]
    fn sizes_carry_units() {
        for (text, bytes) in [("512B", 512), ("64KiB", 65_536), ("1MB", 1_000_000), ("1.5KiB", 1536)] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "5", "5K", "5kb", "KiB", "-1B", "99999999999GB"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rates_say_in_which_time() {
        for (text, count, seconds) in
            [("50/s", 50, 1), ("1000/min", 1000, 60), ("20/h", 20, 3600), ("5/day", 5, 86_400)]
        {
            let rate = rate(text).unwrap();
            assert_eq!((rate.count.get(), rate.period.as_secs()), (count, seconds), "{text}");
            assert_eq!(show_rate(rate), text);
        }
        for text in [
            "",
            "50",
            "/s",
            "50/",
            "50/m",
            "50/sec",
            "0/s",
            "-1/s",
            "1.5/s",
            "1000001/s",
            "99999999999/day",
            "5 /s",
        ] {
            assert!(rate(text).is_err(), "{text}");
        }
        assert!(rate("50").is_err_and(|error| error.contains("`50/s`")));
    }

    #[test]
    fn patience_is_a_percentile_or_a_duration() {
        for (text, after) in [
            ("p95", After::Percentile(0.95)),
            ("p99.9", After::Percentile(0.999)),
            ("50ms", After::Time(Duration::from_millis(50))),
        ] {
            assert_eq!(patience(text), Ok(after), "{text}");
            assert_eq!(after.show(), text);
        }
        for text in ["", "p", "p49", "p100", "p95%", "95", "0s", "P95", "p9e1"] {
            assert!(patience(text).is_err(), "{text}");
        }
    }

    #[test]
    fn percents_and_ranges() {
        assert_eq!(percent("20%"), Ok(0.2));
        assert!(percent("20").is_err() && percent("101%").is_err() && percent("%").is_err());
        assert_eq!(range("25ms..250ms"), Ok((Duration::from_millis(25), Duration::from_millis(250))));
        assert!(range("2s..1s").is_err() && range("2s").is_err() && range("..2s").is_err());
    }
}
