//! A QR code on a terminal: two modules in a character's height, by half blocks.

use qrcodegen::{QrCode, QrCodeEcc};

/// Modules of empty border that the standard asks for (ISO/IEC 18004, 6.3.8).
const QUIET: i32 = 4;

/// The lines of the code; `None` where there is more text than a code holds, or it is wider than these columns.
///
/// Set modules are dark on a light ground, in black and white whatever the terminal's own colours are: scanners do not
/// all read it the other way round.
pub(crate) fn lines(text: &str, columns: usize) -> Option<Vec<String>> {
    let code = QrCode::encode_text(text, QrCodeEcc::Low).ok()?;
    let range = -QUIET..code.size() + QUIET;
    if range.len() > columns {
        return None;
    }
    let rows: Vec<i32> = range.clone().step_by(2).collect();
    Some(rows.into_iter().map(|y| row(&code, range.clone(), y)).collect())
}

fn row(code: &QrCode, columns: std::ops::Range<i32>, y: i32) -> String {
    let cell = |x: i32| match (code.get_module(x, y), code.get_module(x, y + 1)) {
        (true, true) => ' ',
        (true, false) => '▄',
        (false, true) => '▀',
        (false, false) => '█',
    };
    let cells: String = columns.map(cell).collect();
    // White blocks on black: what is not drawn is a dark module.
    format!("\u{1b}[97;40m{cells}\u{1b}[0m")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The modules that a camera would see, read back from the characters.
    fn modules(lines: &[String]) -> Vec<Vec<bool>> {
        let mut rows = Vec::new();
        for line in lines {
            let cells = line.strip_prefix("\u{1b}[97;40m").unwrap().strip_suffix("\u{1b}[0m").unwrap();
            let dark = |c: char| match c {
                ' ' => (true, true),
                '▄' => (true, false),
                '▀' => (false, true),
                '█' => (false, false),
                other => panic!("no cell is {other:?}"),
            };
            let (upper, lower) = cells.chars().map(dark).unzip();
            rows.extend([upper, lower]);
        }
        rows
    }

    #[test]
    fn what_is_drawn_is_the_code_with_its_border() {
        let text = "otpauth://totp/proxy.example.com:jerry?secret=JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP&issuer=proxy.example.com";
        let code = QrCode::encode_text(text, QrCodeEcc::Low).unwrap();
        let drawn = modules(&lines(text, 80).unwrap());
        for y in -QUIET..code.size() + QUIET {
            for x in -QUIET..code.size() + QUIET {
                let at = |n: i32| usize::try_from(n + QUIET).unwrap();
                assert_eq!(drawn[at(y)][at(x)], code.get_module(x, y), "{x} {y}");
            }
        }
        assert!(drawn[0].iter().all(|is_dark| !is_dark), "the border is light");
    }

    #[test]
    fn what_does_not_fit_is_not_drawn() {
        assert!(lines(&"x".repeat(5000), usize::MAX).is_none());
        // Version 1: 21 modules, and the border on both sides.
        assert!(lines("x", 29).is_some());
        assert!(lines("x", 28).is_none());
    }
}
