//! Kubernetes' quantities, such as `1Gi`, `1500M` or `1e3`, compared exactly.
//!
//! Written by hand because it is exact, needs no dependency and takes some 60 lines; a library would bring a
//! parser and a decimal type along.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// The key of storage in requests and capacities.
pub const STORAGE: &str = "storage";

/// Tells whether `one` is more than `other`. Text that is no quantity, which the API server does not send, is
/// neither more nor less.
#[must_use]
pub fn exceeds(one: &Quantity, other: &Quantity) -> bool {
    // Nearly always both are spelled alike, and nothing has to be parsed.
    one != other && billionths(&one.0).zip(billionths(&other.0)).is_some_and(|(one, other)| one > other)
}

/// The number of billionths in one.
pub const BILLION: u128 = 1_000_000_000;

/// Returns a quantity of storage in bytes, rounded up; [`u64::MAX`] if it is more than that, and 0 if it is no
/// quantity.
#[must_use]
pub fn bytes(quantity: &Quantity) -> u64 {
    billionths(&quantity.0).map_or(0, |number| u64::try_from(number.div_ceil(BILLION)).unwrap_or(u64::MAX))
}

/// Parses a quantity into billionths, which is as exact as Kubernetes is. Smaller parts are rounded up, as
/// Kubernetes does. Returns `None` if the text is no quantity, is negative, or is so large that the API server
/// would have reduced it.
#[must_use]
pub fn billionths(text: &str) -> Option<u128> {
    let text = text.strip_prefix('+').unwrap_or(text);
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at_checked(end)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let (twos, tens) = powers(suffix)?;
    let digits = digits.checked_mul(1 << twos)?;
    let tens = tens.checked_add(9)?.checked_sub(i32::try_from(fraction.len()).ok()?)?;
    let power = 10_u128.checked_pow(tens.unsigned_abs())?;
    if tens < 0 { Some(digits.div_ceil(power)) } else { digits.checked_mul(power) }
}

/// Returns the powers of two and of ten by which a suffix multiplies.
fn powers(suffix: &str) -> Option<(u32, i32)> {
    Some(match suffix {
        "n" => (0, -9),
        "u" => (0, -6),
        "m" => (0, -3),
        "" => (0, 0),
        "k" => (0, 3),
        "M" => (0, 6),
        "G" => (0, 9),
        "T" => (0, 12),
        "P" => (0, 15),
        "E" => (0, 18),
        "Ki" => (10, 0),
        "Mi" => (20, 0),
        "Gi" => (30, 0),
        "Ti" => (40, 0),
        "Pi" => (50, 0),
        "Ei" => (60, 0),
        exponent => (0, exponent.strip_prefix(['e', 'E'])?.parse().ok()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantity(text: &str) -> Quantity {
        Quantity(text.to_owned())
    }

    #[test]
    fn quantities_of_one_size_are_equal_however_they_are_spelled() {
        let rows: &[&[&str]] = &[
            &["1Gi", "1024Mi", "1048576Ki", "1073741824", "+1Gi", "1.0Gi", "0001Gi", "1073741824e0"],
            &["0.5Gi", "512Mi", ".5Gi", "536870912000m"],
            &["1500M", "1.5G", "1500e6", "1.5E9", "1500000000", "15e+8", "1500000k"],
            &["1e3", "1k", "1000", "1E3", "1000.", "1000000m", "10000e-1"],
            &["1E", "1e18", "1000P"],
            &["8Ei", "8192Pi", "9223372036854775808"],
            &["1n", "0.1n", "0.000000001", "1e-9", "1e-12"],
            &["0", "0Gi", "0.000"],
        ];
        for row in rows {
            for (one, other) in row.iter().flat_map(|one| row.iter().map(move |other| (one, other))) {
                assert_eq!(billionths(one), billionths(other), "{one} {other}");
                assert!(billionths(one).is_some() && !exceeds(&quantity(one), &quantity(other)), "{one} {other}");
            }
        }
    }

    #[test]
    fn the_larger_one_exceeds_the_smaller() {
        let ascending = [
            "0",
            "1n",
            "1u",
            "1m",
            "1",
            "1k",
            "1Ki",
            "999k",
            "1M",
            "1Mi",
            "1G",
            "1073741823",
            "1Gi",
            "1073741825",
            "1500M",
            "1.5Gi",
            "1T",
            "1Ti",
            "1P",
            "1Pi",
            "1E",
            "1Ei",
            "9223372036854775806",
            "9223372036854775807",
        ];
        for (place, one) in ascending.iter().enumerate() {
            for (other_place, other) in ascending.iter().enumerate() {
                assert_eq!(exceeds(&quantity(one), &quantity(other)), place > other_place, "{one} {other}");
            }
        }
    }

    #[test]
    fn what_is_no_quantity_exceeds_nothing_and_is_not_exceeded() {
        let long = "9".repeat(60);
        for text in
            ["", ".", "+", "-1", "1.2.3", "Gi", "1gi", "1KI", "1K", "1 Gi", "1Gi ", "e3", "1e", "1e1e1", &long]
        {
            assert_eq!(billionths(text), None, "{text:?}");
            assert!(!exceeds(&quantity(text), &quantity("0")) && !exceeds(&quantity("1Ei"), &quantity(text)));
        }
        assert_eq!(billionths("1e2147483647"), None);
        assert_eq!(billionths("1e-2147483648"), None);
    }
}
