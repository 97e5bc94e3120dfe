//! Text that somebody else wrote, for people to read.

/// How much is shown of one text, in characters.
const SHOWN_MAX: usize = 200;

/// Text from a server, fit for a terminal and for a log: no control characters, none that turn the direction of writing
/// round or break lines, and at most 200 characters. Whatever a server wrote is shown by this or not at all.
///
/// ```
/// assert_eq!(quittance_http::printable("no\x1b[2J\nmoney"), "no[2Jmoney");
/// ```
pub fn printable(text: &str) -> String {
    let plain = text.chars().filter(|c| !c.is_control() && !is_format(*c));
    plain.take(SHOWN_MAX).collect()
}

/// Characters that are not seen and change what is: marks and overrides of direction, invisible joiners, line separators.
fn is_format(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_a_terminal_acts_upon_is_left() {
        let nasty = "a\x1b]0;title\x07b\r\n\u{9b}2Jc\u{202e}d\u{2066}e\u{200b}";
        assert_eq!(printable(nasty), "a]0;titleb2Jcde");
        assert_eq!(printable("Betrag: 5 €"), "Betrag: 5 €");
        assert_eq!(printable(&"x".repeat(100_000)).len(), SHOWN_MAX);
    }
}
