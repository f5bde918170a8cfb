//! One line for a terminal: pieces of text with a style each. The live table is made of them; `screen.rs` and `live_screen.rs`
//! print them.
//!
//! A style is a hint only: the words and the shapes say the same without it, on paper and to those who see no colours.

/// Characters beyond Latin that the lines use, each one column wide. Any other such character may be two columns wide, or
/// none, and becomes a `?`: only then is the length of a line known.
const SHAPES: &str = "·…–★○▲△✕‖?◐●⏸▽";

/// How a piece of text stands out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Style {
    /// It does not.
    #[default]
    Plain,
    /// A heading.
    Strong,
    /// As it should be.
    Good,
    /// Worth a look.
    Warn,
    /// Something has failed.
    Bad,
    /// Not of the present.
    Old,
}

impl Style {
    /// The parameters of SGR (ECMA-48, 8.3.117): colours of the terminal's own palette, which suit its background.
    fn parameters(self) -> &'static str {
        match self {
            Style::Plain => "",
            Style::Strong => "1",
            Style::Good => "32",
            Style::Warn => "33",
            Style::Bad => "1;31",
            Style::Old => "2",
        }
    }
}

/// A line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line {
    pieces: Vec<(Style, String)>,
}

impl Line {
    /// This text in one style. Control characters, and characters whose width is not known, become `?`.
    pub fn new(style: Style, text: &str) -> Line {
        Line::default().with(style, text)
    }

    /// The line with this text at its end.
    pub fn with(mut self, style: Style, text: &str) -> Line {
        self.pieces.push((style, text.chars().map(|c| if is_narrow(c) { c } else { '?' }).collect()));
        self
    }

    /// The line with this one at its end.
    pub fn joined(mut self, other: &Line) -> Line {
        self.pieces.extend(other.pieces.iter().cloned());
        self
    }

    /// How many columns it takes.
    pub fn width(&self) -> usize {
        self.pieces.iter().map(|(_, text)| text.chars().count()).sum()
    }

    /// The line in at most `width` columns; where it was cut, it ends with `…`.
    pub fn cut(mut self, width: usize) -> Line {
        if self.width() <= width {
            return self;
        }
        let mut left = width.saturating_sub(1);
        for (_, text) in &mut self.pieces {
            *text = text.chars().take(left).collect();
            left -= text.chars().count();
        }
        self.pieces.retain(|(_, text)| !text.is_empty());
        if width > 0 {
            let style = self.pieces.last().map(|(style, _)| *style).unwrap_or_default();
            self.pieces.push((style, "…".to_string()));
        }
        self
    }

    /// This text in lines of at most `width` columns, broken between words.
    pub fn wrapped(style: Style, text: &str, width: usize) -> Vec<Line> {
        let mut lines: Vec<String> = Vec::new();
        for word in text.split(' ') {
            match lines.last_mut() {
                Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                    line.push(' ');
                    line.push_str(word);
                }
                _ => lines.push(word.to_string()),
            }
        }
        lines.iter().map(|line| Line::new(style, line).cut(width)).collect()
    }

    /// Its text.
    pub fn text(&self) -> String {
        self.pieces.iter().map(|(_, text)| text.as_str()).collect()
    }

    /// Its text with control sequences for the styles.
    pub fn painted(&self) -> String {
        let paint = |(style, text): &(Style, String)| match style.parameters() {
            "" => text.clone(),
            parameters => format!("\u{1b}[{parameters}m{text}\u{1b}[0m"),
        };
        self.pieces.iter().map(paint).collect()
    }
}

fn is_narrow(c: char) -> bool {
    const COMBINING: u32 = 0x300;
    const SOFT_HYPHEN: char = '\u{ad}';
    !c.is_control() && c != SOFT_HYPHEN && (u32::from(c) < COMBINING || SHAPES.contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_to_its_width_whatever_it_is_made_of() {
        let line = Line::new(Style::Bad, "✕ dead").with(Style::Plain, " since noon");
        assert_eq!(line.clone().cut(17), line);
        for width in 0..17 {
            let cut = line.clone().cut(width);
            assert_eq!(cut.width(), width);
            assert!(width == 0 || cut.text().ends_with('…'));
        }
    }

    #[test]
    fn nothing_that_others_say_moves_the_cursor_or_is_wider_than_it_is_counted() {
        let line = Line::new(Style::Good, "a\u{1b}[2J\u{9b}b\u{301}\u{200b}界");
        assert_eq!(line.text(), "a?[2J?b???");
    }

    #[test]
    fn words_stay_whole_where_they_fit() {
        let text = |width| {
            Line::wrapped(Style::Plain, "node 4 leads", width).iter().map(Line::text).collect::<Vec<_>>()
        };
        assert_eq!(text(12), ["node 4 leads"]);
        assert_eq!(text(11), ["node 4", "leads"]);
        assert_eq!(text(4), ["node", "4", "lea…"]);
    }
}
