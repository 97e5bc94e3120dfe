//! Text from another party, for people to read.

/// The maximum length of a printed text, in characters.
const PRINTED_MAX: usize = 200;

/// The text without control characters, invisible characters, line breaks and changes of the
/// writing direction, and at most 200 characters of it. The result is safe for terminals, logs and
/// language models. Apply it to every text of another party before printing.
///
/// ```
/// assert_eq!(quittance_core::printable("no\x1b[2J\nmoney"), "no[2Jmoney");
/// ```
pub fn printable(text: &str) -> String {
    let plain = text
        .chars()
        .filter(|c| !c.is_control() && !is_invisible(*c));
    plain.take(PRINTED_MAX).collect()
}

/// Invisible characters that change other text or carry text of their own: Unicode's general
/// categories Cf (format), Zl and Zp (line and paragraph separators), and the property
/// Default_Ignorable_Code_Point, which adds variation selectors, fillers and tags. As of Unicode
/// 16; a test compares them with the tables of another library.
const INVISIBLE: [std::ops::RangeInclusive<char>; 31] = [
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
    // Private use: their appearance depends on the font.
    '\u{e000}'..='\u{f8ff}',
    '\u{f0000}'..='\u{ffffd}',
    '\u{100000}'..='\u{10fffd}',
    // Noncharacters.
    '\u{fdd0}'..='\u{fdef}',
    '\u{fffe}'..='\u{ffff}',
    '\u{10fffe}'..='\u{10ffff}',
];

fn is_invisible(c: char) -> bool {
    // ASCII contains none, and nearly all text is ASCII.
    !c.is_ascii() && INVISIBLE.iter().any(|range| range.contains(&c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_removed() {
        let hostile = "a\x1b]0;title\x07b\r\n\u{9b}2Jc\u{202e}d\u{2066}e\u{200b}";
        assert_eq!(printable(hostile), "a]0;titleb2Jcde");
        assert_eq!(printable("Betrag: 5 €"), "Betrag: 5 €");
        assert_eq!(printable(&"x".repeat(100_000)).len(), PRINTED_MAX);
    }

    /// Once, invisible marks and tags were printed. Language models read tags.
    #[test]
    fn invisible_characters_are_removed() {
        let invisible = r"[\p{Cc}\p{Cf}\p{Co}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}]";
        let invisible = regex::Regex::new(invisible).unwrap();
        let mut text = [0; 4];
        for c in '\0'..=char::MAX {
            let text = c.encode_utf8(&mut text);
            if invisible.is_match(text) {
                assert_eq!(printable(text), "", "U+{:04X}", c as u32);
            }
        }
        assert_eq!(printable("naïve 支付 ¥5 🙂"), "naïve 支付 ¥5 🙂");
    }
}
