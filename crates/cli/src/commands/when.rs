//! Times on the command line.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use quittance_core::Timestamp;

/// A time as people write it: a date such as `2026-11-01` (its first moment, UTC), or an RFC 3339
/// time such as `2026-11-01T12:00:00Z`. `None` for anything else, and before 1970.
pub(super) fn time(text: &str) -> Option<Timestamp> {
    let seconds = match text.parse::<Date>() {
        Ok(date) if !text.contains(['T', 't', ' ']) => {
            date.to_zoned(TimeZone::UTC).ok()?.timestamp().as_second()
        }
        _ => text.parse::<jiff::Timestamp>().ok()?.as_second(),
    };
    u64::try_from(seconds).ok().map(Timestamp::from_secs)
}

/// A time in RFC 3339, in UTC. Seconds beyond the year 9999 are printed as a number.
pub(super) fn text(time: Timestamp) -> String {
    let seconds = i64::try_from(time.secs()).ok();
    let known = seconds.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    known.map_or_else(|| time.secs().to_string(), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_date_or_rfc_3339() {
        let secs = |text| time(text).map(Timestamp::secs);
        assert_eq!(secs("2026-11-01"), Some(1_793_491_200));
        assert_eq!(secs("2026-11-01T00:00:01Z"), Some(1_793_491_201));
        assert_eq!(secs("2026-11-01T01:00:00+01:00"), Some(1_793_491_200));
        for wrong in [
            "",
            "yesterday",
            "2026",
            "2026-13-01",
            "1969-12-31",
            "2026-11-01T00:00",
        ] {
            assert_eq!(secs(wrong), None, "{wrong}");
        }
        assert_eq!(
            text(Timestamp::from_secs(1_793_491_201)),
            "2026-11-01T00:00:01Z"
        );
        assert_eq!(text(Timestamp::NEVER), u64::MAX.to_string());
    }
}
