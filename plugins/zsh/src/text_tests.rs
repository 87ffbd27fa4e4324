//! Small programs made by hand, and nonsense. Real ones are in the golden recordings, and in the end-to-end tests, where zsh
//! itself says what their text is.

use super::*;
use proptest::prelude::*;

/// Code and strings, put together.
#[derive(Default)]
struct Code {
    words: Vec<u32>,
    strings: Vec<u8>,
}

impl Code {
    fn word(mut self, code: u32, data: u32) -> Self {
        self.words.push(code | data << 5);
        self
    }

    fn raw(mut self, word: u32) -> Self {
        self.words.push(word);
        self
    }

    /// As zsh stores it: up to three bytes in the word itself.
    fn string(mut self, text: &[u8]) -> Self {
        if text.is_empty() {
            return self.raw(6);
        }
        if text.len() <= 3 {
            let mut bytes = [0; 4];
            bytes[..text.len()].copy_from_slice(text);
            return self.raw(u32::from_le_bytes(bytes) << 3 | 2);
        }
        let at = u32::try_from(self.strings.len()).unwrap();
        self.strings.extend(text);
        self.strings.push(0);
        self.raw(at << 2)
    }

    fn made(&self, function_words: usize) -> Made {
        let words: Vec<u8> = self.words.iter().flat_map(|word| word.to_le_bytes()).collect();
        text(&Program { words: &words, strings: &self.strings, function_words })
    }

    fn text(&self) -> String {
        let made = self.made(4);
        assert_eq!(made.stopped, None, "{made:?}");
        String::from_utf8(made.text).unwrap()
    }

    /// A list of one simple command, the last.
    fn simple(self, words: &[&[u8]]) -> Self {
        let end = Self::SYNC | Self::LAST | Self::ALONE;
        let number = u32::try_from(words.len()).unwrap();
        let begun = self.word(LIST, end).raw(1).word(SIMPLE, number);
        words.iter().fold(begun, |code, word| code.string(word))
    }

    const SYNC: u32 = 2;
    const ASYNC: u32 = 4;
    const LAST: u32 = 16;
    const ALONE: u32 = 32;
}

#[test]
fn words_short_and_long() {
    assert_eq!(Code::default().simple(&[b"echo", b"hi", b""]).word(0, 0).text(), "echo hi ");
    assert_eq!(Code::default().simple(&[b"print"]).word(0, 0).text(), "print");
    assert_eq!(Code::default().text(), "", "nothing at all");
}

#[test]
fn tokens_become_what_they_stand_for() {
    let string = b"\x85\x8fa\x90 \x9d\x87\x9d \x9e\x8cb\x9e \x9fc \xa1 \x83\xa4 \x83\xa1";
    let text = Code::default().simple(&[b"echo", string]).word(0, 0).made(4).text;
    assert_eq!(text, b"echo ${a} '*' \"$b\" \\c  \x84 \x81");
}

#[test]
fn lists_pipes_and_background() {
    let pipe = |code: Code, more: u32| if more == 1 { code.word(PIPE, 1).raw(0) } else { code.word(PIPE, 0) };
    let one = |code: Code, name: &[u8]| code.word(SIMPLE, 1).string(name);
    let code = Code::default().word(LIST, Code::ASYNC).word(SUBLIST, 1 | 8);
    let code = one(pipe(code, 1), b"a");
    let code = one(pipe(code, 0), b"b").word(SUBLIST, 0);
    let code = one(pipe(code, 0), b"c").word(LIST, Code::SYNC | Code::LAST).word(SUBLIST, 0);
    let code = one(pipe(code, 0), b"d").word(0, 0);
    assert_eq!(code.text(), "! a | b && c &\nd");
}

#[test]
fn assignments_and_redirections() {
    let code = Code::default().word(LIST, Code::SYNC | Code::LAST).word(SUBLIST, 0).word(PIPE, 0);
    let redirected = code.word(REDIR, 2).raw(2).string(b"log").word(ASSIGN, 2).string(b"a").string(b"1");
    let array = redirected.word(ASSIGN, 1 | 2 << 2).string(b"b").string(b"x").string(b"y");
    assert_eq!(array.word(SIMPLE, 1).string(b"c").word(0, 0).text(), "a+=1 b=(x y) c 2>> log");
    let alone = Code::default().word(LIST, Code::SYNC | Code::LAST | Code::ALONE).raw(1);
    let alone = alone.word(ASSIGN, 0).string(b"a").string(b"1").word(SIMPLE, 0);
    assert_eq!(alone.word(0, 0).text(), "a=1", "no space at the end");
}

#[test]
fn a_here_document_follows_its_line() {
    let code = Code::default().word(LIST, Code::SYNC | Code::LAST).word(SUBLIST, 0).word(PIPE, 0);
    let code = code.word(REDIR, 12 | 0x40).raw(0).string(b"text\n").string(b"EOF").string(b"EOF");
    assert_eq!(code.word(SIMPLE, 1).string(b"cat").word(0, 0).text(), "cat <<EOF\ntext\nEOF");
}

#[test]
fn functions_of_both_forms() {
    for words in [3, 4] {
        let length = 2 + u32::try_from(words).unwrap() + 5;
        let code = Code::default().word(LIST, Code::SYNC | Code::LAST | Code::ALONE).raw(1);
        let code = code.word(FUNCDEF, length).raw(1).string(b"f");
        // Its strings begin behind the five bytes that are there.
        let mut code = (0..words).fold(code, |code, n| code.raw(if n == 0 { 5 } else { 0 }));
        code.strings.extend(b"abcd\0");
        let (mut body, at) = (code.word(LIST, 50).raw(1).word(SIMPLE, 1).raw(0), 5);
        assert_eq!(body.strings.len(), at);
        body.strings.extend(b"inside\0");
        let whole = body.word(0, 0).word(0, 0);
        assert_eq!(String::from_utf8(whole.made(words).text).unwrap(), "f () {\n\tinside\n}");
    }
}

#[test]
fn what_is_cut_gives_what_there_is() {
    let mut code = Code::default().simple(&[b"echo", b"long enough"]);
    code.strings.truncate(7);
    let made = code.made(4);
    assert_eq!((&made.text[..], made.stopped), (&b"echo "[..], Some(TextError::End)));
    let made = Code::default().word(31, 0).made(4);
    assert_eq!((made.text.len(), made.stopped), (0, Some(TextError::Unknown)));
}

#[test]
fn text_and_work_are_bounded() {
    let long = vec![b'x'; 60_000];
    let code = Code::default().simple(&[&long]);
    let mut many = Code { words: Vec::new(), strings: code.strings };
    many = many.word(SIMPLE, 100_000);
    many.words.extend(vec![0; 100_000]);
    let made = many.made(4);
    assert_eq!(made.stopped, Some(TextError::Long));
    assert!(made.text.len() <= TEXT_MAX);
    // As deep as there are words.
    let deep = Code { words: vec![SUBSH; 200_000], strings: Vec::new() };
    let made = deep.made(4);
    assert!(made.stopped.is_some() && made.text.len() <= TEXT_MAX);
}

proptest! {
    #[test]
    fn nonsense_is_refused_without_harm(
        words in proptest::collection::vec((0u32..23, 0u32..70, any::<bool>()), 0..60),
        strings in proptest::collection::vec(any::<u8>(), 0..40),
        three in any::<bool>(),
    ) {
        let words: Vec<u32> = words.iter().map(|(code, data, raw)| if *raw { *data } else { code | data << 5 }).collect();
        let made = Code { words, strings }.made(if three { 3 } else { 4 });
        prop_assert!(made.text.len() <= TEXT_MAX);
    }

    #[test]
    fn bytes_are_no_program(words in proptest::collection::vec(any::<u8>(), 0..300), strings in proptest::collection::vec(any::<u8>(), 0..50)) {
        let made = text(&Program { words: &words, strings: &strings, function_words: 4 });
        prop_assert!(made.text.len() <= TEXT_MAX);
    }
}
