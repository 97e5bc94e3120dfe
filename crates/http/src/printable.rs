//! Text that somebody else wrote, for people to read.

/// How much is shown of one text, in characters.
const SHOWN_MAX: usize = 200;

/// Text from a server, fit for a terminal, for a log and for a language model: no control characters, none that are not seen,
/// none that turn the direction of writing round or break lines, and at most 200 characters. Whatever a server wrote is
/// shown by this or not at all.
///
/// ```
/// assert_eq!(quittance_http::printable("no\x1b[2J\nmoney"), "no[2Jmoney");
/// ```
pub fn printable(text: &str) -> String {
    let plain = text.chars().filter(|c| !c.is_control() && !is_unseen(*c));
    plain.take(SHOWN_MAX).collect()
}

/// Characters that are not seen and change what is, or carry text of their own: Unicode's general categories Cf (format), Zl and
/// Zp (line and paragraph separators), and the property Default_Ignorable_Code_Point, which adds variation selectors, fillers
/// and the tags. As of Unicode 16; a test compares with the tables of another library.
const UNSEEN: [std::ops::RangeInclusive<char>; 31] = [
    '\u{ad}'..='\u{ad}',
    '\u{34f}'..='\u{34f}',
    '\u{600}'..='\u{605}',
    '\u{61c}'..='\u{61c}',
    '\u{6dd}'..='\u{6dd}',
    '\u{70f}'..='\u{70f}',
    '\u{890}'..='\u{891}',
    '\u{8e2}'..='\u{8e2}',
    '\u{115f}'..='\u{1160}',
    '\u{17b4}'..='\u{17b5}',
    '\u{180b}'..='\u{180f}',
    '\u{200b}'..='\u{200f}',
    '\u{2028}'..='\u{202e}',
    '\u{2060}'..='\u{206f}',
    '\u{3164}'..='\u{3164}',
    '\u{fe00}'..='\u{fe0f}',
    '\u{feff}'..='\u{feff}',
    '\u{ffa0}'..='\u{ffa0}',
    '\u{fff0}'..='\u{fffb}',
    '\u{110bd}'..='\u{110bd}',
    '\u{110cd}'..='\u{110cd}',
    '\u{13430}'..='\u{1343f}',
    '\u{1bca0}'..='\u{1bca3}',
    '\u{1d173}'..='\u{1d17a}',
    '\u{e0000}'..='\u{e0fff}',
    // Private: what they look like is decided by whoever made the font.
    '\u{e000}'..='\u{f8ff}',
    '\u{f0000}'..='\u{ffffd}',
    '\u{100000}'..='\u{10fffd}',
    // Characters that never will be.
    '\u{fdd0}'..='\u{fdef}',
    '\u{fffe}'..='\u{ffff}',
    '\u{10fffe}'..='\u{10ffff}',
];

fn is_unseen(c: char) -> bool {
    // Nearly every character is none of them.
    !c.is_ascii() && UNSEEN.iter().any(|range| range.contains(&c))
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

    /// Invisible marks and tags went through; messages are read by language models, which read the tags.
    #[test]
    fn no_character_that_is_not_seen_is_shown() {
        let unseen = r"[\p{Cc}\p{Cf}\p{Co}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}]";
        let unseen = regex::Regex::new(unseen).unwrap();
        let mut text = [0; 4];
        for c in '\0'..=char::MAX {
            let text = c.encode_utf8(&mut text);
            if unseen.is_match(text) {
                assert_eq!(printable(text), "", "U+{:04X}", c as u32);
            }
        }
        assert_eq!(printable("naïve 支付 ¥5 🙂"), "naïve 支付 ¥5 🙂");
    }
}
