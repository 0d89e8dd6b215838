//! The version of `ipmitool`, and what its silence proves.

/// What this version prints under `-v` before it asks the BMC anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// 1.8.16 to 1.8.18 print nothing: an empty standard error proves nothing.
    Quiet,
    /// 1.8.19 and newer always print a line about the registry of manufacturers. Where it is missing, a script around
    /// `ipmitool` hides what `ipmitool` says.
    Telling,
}

/// A version, and a warning where this program was never tried with it.
pub type Judged = (Version, Option<String>);

/// Older versions print no line before they send a change, and go on after an unanswered login.
const OLDEST: [u32; 3] = [1, 8, 16];

const FIRST_TELLING: [u32; 3] = [1, 8, 19];

/// Versions that this program was tried with.
const TRIED: [[u32; 3]; 2] = [[1, 8, 18], [1, 8, 19]];

/// Reads what `ipmitool -V` printed.
///
/// # Errors
/// For a version that cannot be trusted: which, and what is expected.
pub fn judge(printed: &str) -> Result<Judged, String> {
    let Some(version) = printed.lines().find_map(numbers) else {
        let warning = "ipmitool -V told no version: what it prints is read like that of 1.8.19";
        return Ok((Version::Telling, Some(warning.to_owned())));
    };
    let [major, minor, patch] = version;
    let name = format!("{major}.{minor}.{patch}");
    if version < OLDEST {
        return Err(format!(
            "it is version {name}: expected 1.8.16 or newer, since older ones hide what was sent"
        ));
    }
    let warning = format!("ipmitool is version {name}, which ipmi-sidecar was never tried with");
    let is_telling = version >= FIRST_TELLING;
    Ok((
        if is_telling { Version::Telling } else { Version::Quiet },
        (!TRIED.contains(&version)).then_some(warning),
    ))
}

/// `ipmitool version 1.8.19`, perhaps with more behind the numbers.
fn numbers(line: &str) -> Option<[u32; 3]> {
    let mut numbers = line.strip_prefix("ipmitool version ")?.split('.').map(|part| {
        let digits = part.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(part.len());
        part[..digits].parse().ok()
    });
    Some([numbers.next()??, numbers.next()??, numbers.next().flatten().unwrap_or(0)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_told_apart_by_what_they_print() {
        for (printed, version, is_warned) in [
            ("ipmitool version 1.8.19\n", Version::Telling, false),
            ("ipmitool version 1.8.19-4+deb12u2\n", Version::Telling, false),
            ("ipmitool version 1.8.18\n", Version::Quiet, false),
            ("ipmitool version 1.8.17", Version::Quiet, true),
            ("ipmitool version 1.8.16\n", Version::Quiet, true),
            ("ipmitool version 1.8.19.31.gb7adc1d\n", Version::Telling, false),
            ("ipmitool version 1.8.20\n", Version::Telling, true),
            ("ipmitool version 1.9\n", Version::Telling, true),
            ("noise\nipmitool version 1.8.19\n", Version::Telling, false),
            ("", Version::Telling, true),
            ("ipmitool version unknown\n", Version::Telling, true),
        ] {
            let (judged, warning) = judge(printed).unwrap();
            assert_eq!((judged, warning.is_some()), (version, is_warned), "{printed:?}");
        }
    }

    #[test]
    fn a_version_that_hides_what_was_sent_is_refused() {
        for old in ["1.8.15", "1.8.13", "1.7.9", "0.9"] {
            let error = judge(&format!("ipmitool version {old}\n")).unwrap_err();
            assert!(error.contains(old) && error.contains("1.8.16"), "{error}");
        }
    }
}
