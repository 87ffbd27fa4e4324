//! The function behind wrappers, on hand-assembled functions.

use super::super::plan::{Behind, Cost, Locator, Placed, WantedKind, WrapperArgument};
use super::builder::{CODE, DATA, Elf};
use super::{failure, placed, probe};
use Piece::{Bytes, Call, Jump, Stub};

/// A piece of a function.
enum Piece {
    Bytes(&'static [u8]),
    Call(&'static str),
    Jump(&'static str),
    /// `jmp [rip + SLOT]`.
    Stub,
}

const SLOT: u64 = 0xc0;

/// Where each function is, and all of their code.
fn link(functions: &[(&'static str, &[Piece])]) -> Elf {
    let len = |piece: &Piece| match piece {
        Bytes(bytes) => bytes.len(),
        Call(_) | Jump(_) => 5,
        Stub => 6,
    };
    let mut starts = Vec::new();
    let mut end = 0;
    for (name, pieces) in functions {
        let size: usize = pieces.iter().map(len).sum();
        starts.push((*name, end, size));
        end += size.next_multiple_of(16);
    }
    let start = |name: &str| starts.iter().find(|s| s.0 == name).map(|s| s.1 as i64).expect("a function");
    let mut code = Vec::new();
    for ((_, pieces), (_, at, _)) in functions.iter().zip(&starts) {
        code.resize(*at, 0xcc);
        for piece in *pieces {
            match piece {
                Bytes(bytes) => code.extend(*bytes),
                Call(name) | Jump(name) => {
                    code.push(if matches!(piece, Call(_)) { 0xe8 } else { 0xe9 });
                    code.extend(((start(name) - (code.len() as i64 + 4)) as i32).to_le_bytes());
                }
                Stub => {
                    code.extend([0xff, 0x25]);
                    let behind = (CODE + code.len() as u64 + 4) as i64;
                    code.extend((((DATA + SLOT) as i64 - behind) as i32).to_le_bytes());
                }
            }
        }
    }
    let file = Elf::of_code(&code);
    starts.iter().fold(file, |file, (name, at, size)| file.function(name, *at as u64, *size as u64))
}

/// add rdi, rsi; add rdi, rdx; mov [rcx], rdi; ret
const USES_4: &[Piece] = &[Bytes(&[0x48, 0x01, 0xf7, 0x48, 0x01, 0xd7, 0x48, 0x89, 0x39, 0xc3])];
/// add rdi, rsi; add rdi, rdx; add edi, ecx; mov [r8], rdi; ret
const USES_5: &[Piece] = &[Bytes(&[0x48, 0x01, 0xf7, 0x48, 0x01, 0xd7, 0x01, 0xcf, 0x49, 0x89, 0x38, 0xc3])];
/// xor eax, eax; ret
const USES_NOTHING: &[Piece] = &[Bytes(&[0x31, 0xc0, 0xc3])];
/// sub rsp, 8
const DOWN: Piece = Bytes(&[0x48, 0x83, 0xec, 0x08]);
/// add rsp, 8; ret
const UP: Piece = Bytes(&[0x48, 0x83, 0xc4, 0x08, 0xc3]);
/// What `w_ex` is in most of these files.
const PASSES_ON: &[Piece] = &[DOWN, Call("inner"), UP];

/// sub rsp, 0x18; test edx, edx; js +11; mov rcx, rsp; movsxd rdx, edx; call inner; add rsp, 0x18; ret
const NARROWS: &[Piece] = &[
    Bytes(&[0x48, 0x83, 0xec, 0x18, 0x85, 0xd2, 0x78, 0x0b, 0x48, 0x89, 0xe1, 0x48, 0x63, 0xd2]),
    Call("inner"),
    Bytes(&[0x48, 0x83, 0xc4, 0x18, 0xc3]),
];

/// Two wrappers, one of a wrapper that it calls by a stub, and what is behind them.
pub(super) fn whole_file() -> Elf {
    let shift = [Bytes(&[0x49, 0x89, 0xc8, 0x31, 0xc9]), Jump("stub")];
    let w = [
        Bytes(&[0x48, 0x83, 0xec, 0x18, 0x31, 0xc9, 0x89, 0xd2, 0x49, 0x89, 0xe0]),
        Call("inner"),
        Bytes(&[0x48, 0x83, 0xc4, 0x18, 0xc3]),
    ];
    link(&[("w", &w), ("w_ex", &shift), ("w_ex2", PASSES_ON), ("inner", USES_5), ("stub", &[Stub])])
        .slot(SLOT, Some(48))
}

pub(super) fn behind(wrappers: &[&str], out: Option<(&str, u8)>) -> Locator {
    let out = out.map(|(wrapper, argument)| WrapperArgument { wrapper: wrapper.to_owned(), argument });
    let wrappers = wrappers.iter().map(|name| (*name).to_owned()).collect();
    Locator::Behind(Behind { wrappers, args: 3, buffer: 1, out })
}

fn found(file: &Elf, out: Option<(&str, u8)>) -> Placed {
    placed(&file.build(), probe(WantedKind::Entry, behind(&["w", "w_ex"], out), 3))
}

/// Why nothing is proven to be behind `w`, made of these pieces, which may call `inner` and `other`.
fn refused(w: &[Piece], other: &[Piece]) -> String {
    let file = link(&[("w", w), ("inner", USES_4), ("other", other)]);
    failure(&file.build(), probe(WantedKind::Entry, behind(&["w"], None), 3))
}

/// That `inner` is proven to be behind `w`.
fn accepted(w: &[Piece], other: &[Piece]) {
    let file = link(&[("w", w), ("inner", USES_4), ("other", other)]);
    let place = placed(&file.build(), probe(WantedKind::Entry, behind(&["w"], None), 3));
    assert_eq!((place.function.as_str(), place.found.as_deref()), ("inner", Some("behind w")));
}

#[test]
fn a_function_behind_two_wrappers() {
    let file = link(&[("w", NARROWS), ("w_ex", PASSES_ON), ("inner", USES_4)]);
    let place = found(&file, Some(("w_ex", 3)));
    assert_eq!((place.function.as_str(), place.out, place.delta), ("inner", Some(3), 0));
    assert_eq!(place.found.as_deref(), Some("behind w and w_ex; argument 3 of w_ex is its argument 3"));
    let without = found(&file, None);
    assert_eq!((without.function_offset, without.out), (place.function_offset, None));
    assert_eq!(without.found.as_deref(), Some("behind w and w_ex"));
}

#[test]
fn a_function_behind_a_wrapper_of_a_wrapper_with_an_argument_moved() {
    // mov r8, rcx; xor ecx, ecx
    let shift = || Bytes(&[0x49, 0x89, 0xc8, 0x31, 0xc9]);
    // sub rsp, 0x18; xor ecx, ecx; mov edx, edx; mov r8, rsp
    let w = [
        Bytes(&[0x48, 0x83, 0xec, 0x18, 0x31, 0xc9, 0x89, 0xd2, 0x49, 0x89, 0xe0]),
        Call("inner"),
        Bytes(&[0x48, 0x83, 0xc4, 0x18, 0xc3]),
    ];
    let words = "behind w and w_ex, from w_ex through w_ex2; argument 3 of w_ex is its argument 4";
    for jump in [[shift(), Jump("w_ex2")], [shift(), Jump("stub")]] {
        let file = link(&[("w", &w), ("w_ex", &jump), ("w_ex2", PASSES_ON), ("inner", USES_5), ("stub", &[Stub])]);
        let w_ex2 = 48;
        let place = found(&file.clone().slot(SLOT, Some(w_ex2)), Some(("w_ex", 3)));
        assert_eq!((place.function.as_str(), place.out), ("inner", Some(4)));
        assert_eq!(place.found.as_deref(), Some(words));
    }
    // What a slot leads to that is another file's, or that no relocation fills, is not known.
    let file = link(&[("w", &w), ("w_ex", &[shift(), Jump("stub")]), ("inner", USES_5), ("stub", &[Stub])]);
    let wanted = || probe(WantedKind::Entry, behind(&["w", "w_ex"], None), 3);
    assert!(failure(&file.clone().slot(SLOT, None).build(), wanted()).contains("handed to another function"));
    assert!(failure(&file.clone().slot(SLOT + 8, Some(0)).build(), wanted()).contains("not in sight"));
    assert!(failure(&file.build(), wanted()).contains("not in sight"));
}

#[test]
fn the_wanted_position_is_an_argument_that_must_be_intact() {
    // xor ecx, ecx; push rbx; then as before: at the push argument 3 is gone.
    let inner = [Bytes(&[0x41, 0xb9, 0, 0, 0, 0, 0x48, 0x89, 0xc8, 0x31, 0xc9, 0x53]), Bytes(&[0x5b]), Jump("rest")];
    let rest = [Bytes(&[0x48, 0x01, 0xf7, 0x48, 0x01, 0xd7, 0x48, 0x89, 0x38, 0xc3])];
    let file = link(&[("w", NARROWS), ("w_ex", PASSES_ON), ("inner", &inner), ("rest", &rest)]);
    assert_eq!(found(&file, None).cost, Cost::Emulated);
    let place = found(&file, Some(("w_ex", 3)));
    assert_eq!((place.out, place.delta, place.cost), (Some(3), 0, Cost::Stepped), "{}", place.why);
    assert!(place.why.contains("writes the argument register rcx"), "{}", place.why);
}

#[test]
fn arguments_kept_in_the_frame_and_in_saved_registers_are_followed() {
    // As without optimization: everything goes to the frame and comes back.
    accepted(
        &[
            // push rbp; mov rbp, rsp; sub rsp, 0x30; mov [rbp-0x18], rdi; mov [rbp-0x20], rsi; mov [rbp-0x24], edx
            Bytes(&[0x55, 0x48, 0x89, 0xe5, 0x48, 0x83, 0xec, 0x30, 0x48, 0x89, 0x7d, 0xe8]),
            Bytes(&[0x48, 0x89, 0x75, 0xe0, 0x89, 0x55, 0xdc, 0x83, 0x7d, 0xdc, 0x00, 0x78, 0x1c]),
            // mov eax, [rbp-0x24]; movsxd rdx, eax; lea rcx, [rbp-8]; mov rsi, [rbp-0x20]; mov rax, [rbp-0x18]
            Bytes(&[0x8b, 0x45, 0xdc, 0x48, 0x63, 0xd0, 0x48, 0x8d, 0x4d, 0xf8, 0x48, 0x8b, 0x75, 0xe0]),
            // mov rdi, rax
            Bytes(&[0x48, 0x8b, 0x45, 0xe8, 0x48, 0x89, 0xc7]),
            Call("inner"),
            Bytes(&[0x90, 0x90, 0xc9, 0xc3]),
        ],
        USES_NOTHING,
    );
    // push rbx, rbp, r12; mov rbx, rdi; mov rbp, rsi; mov r12, rdx; call other; and back
    accepted(
        &[
            Bytes(&[0x53, 0x55, 0x41, 0x54, 0x48, 0x89, 0xfb, 0x48, 0x89, 0xf5, 0x49, 0x89, 0xd4]),
            Call("other"),
            Bytes(&[0x48, 0x89, 0xdf, 0x48, 0x89, 0xee, 0x4c, 0x89, 0xe2]),
            Call("inner"),
            Bytes(&[0x41, 0x5c, 0x5d, 0x5b, 0xc3]),
        ],
        USES_NOTHING,
    );
}

#[test]
fn what_others_may_have_changed_in_the_frame_is_not_trusted() {
    // sub rsp, 0x18; mov [rsp], rsi; mov [rsp + rcx * 8], rcx, or [rdi + rcx * 8]; mov rsi, [rsp]; call inner
    let w = |write: &'static [u8]| {
        [
            Bytes(&[0x48, 0x83, 0xec, 0x18, 0x48, 0x89, 0x34, 0x24]),
            Bytes(write),
            Bytes(&[0x48, 0x8b, 0x34, 0x24]),
            Call("inner"),
            Bytes(&[0x48, 0x83, 0xc4, 0x18, 0xc3]),
        ]
    };
    assert!(refused(&w(&[0x48, 0x89, 0x0c, 0xcc]), USES_NOTHING).contains("argument 1 is not shown"));
    accepted(&w(&[0x48, 0x89, 0x0c, 0xcf]), USES_NOTHING);

    // push rbx, rbp; mov rbx, rdi; mov rbp, rsi; push rdx; what is given to `other`; call other; pop rdx; and back
    let w = |given: &'static [u8]| {
        [
            Bytes(&[0x53, 0x55, 0x48, 0x89, 0xfb, 0x48, 0x89, 0xf5, 0x52]),
            Bytes(given),
            Call("other"),
            Bytes(&[0x5a, 0x48, 0x89, 0xdf, 0x48, 0x89, 0xee]),
            Call("inner"),
            Bytes(&[0x5d, 0x5b, 0xc3]),
        ]
    };
    // mov rdi, rsp; xor esi, esi
    assert!(refused(&w(&[0x48, 0x89, 0xe7, 0x31, 0xf6]), USES_NOTHING).contains("argument 2 is not shown"));
    // xor edi, edi; xor esi, esi
    accepted(&w(&[0x31, 0xff, 0x31, 0xf6]), USES_NOTHING);
}

#[test]
fn a_function_of_another_file_is_given_what_was_set_up_for_it() {
    // push rbx, rbp, r12; mov rbx, rdi; mov rbp, rsi; mov r12, rdx; then the call; and back
    let file = |set_up: &'static [u8]| {
        let w = [
            Bytes(&[0x53, 0x55, 0x41, 0x54, 0x48, 0x89, 0xfb, 0x48, 0x89, 0xf5, 0x49, 0x89, 0xd4]),
            Bytes(set_up),
            Call("stub"),
            Bytes(&[0x48, 0x89, 0xdf, 0x48, 0x89, 0xee, 0x4c, 0x89, 0xe2]),
            Call("inner"),
            Bytes(&[0x41, 0x5c, 0x5d, 0x5b, 0xc3]),
        ];
        link(&[("w", &w), ("inner", USES_4), ("stub", &[Stub])]).slot(SLOT, None).build()
    };
    let wanted = || probe(WantedKind::Entry, behind(&["w"], None), 3);
    assert_eq!(placed(&file(&[0x90]), wanted()).function, "inner");
    // xor edi, edi: one argument; xor edx, edx: three.
    assert_eq!(placed(&file(&[0x31, 0xff]), wanted()).function, "inner");
    assert!(failure(&file(&[0x31, 0xd2]), wanted()).contains("may be handed to another function"));
}

#[test]
fn what_is_left_in_registers_is_no_argument() {
    // test rdx, rdx; jne +6; call other; ret
    let pieces = [DOWN, Bytes(&[0x48, 0x85, 0xd2, 0x75, 0x0a]), Call("other"), UP, Call("inner"), UP];
    accepted(&pieces, USES_NOTHING);
    // mov rax, rsi; ret
    assert!(refused(&pieces, &[Bytes(&[0x48, 0x89, 0xf0, 0xc3])]).contains("goes to"));
    // `other` hands it on: to `inner`, which uses it.
    assert!(refused(&pieces, &[Jump("inner")]).contains("goes to"));
    // call rax: who knows.
    assert!(refused(&pieces, &[Bytes(&[0xff, 0xe0])]).contains("goes to"));
}

#[test]
fn wrappers_with_other_ways_for_the_data_are_refused() {
    let cases: [(&[Piece], &str); 15] = [
        (&[DOWN, Bytes(&[0xff, 0xd0]), UP], "not in sight"),
        // jmp rax
        (&[Bytes(&[0x85, 0xd2, 0x74, 0x05]), Jump("inner"), Bytes(&[0xff, 0xe0])], "not in sight"),
        // syscall
        (&[Bytes(&[0x0f, 0x05]), Jump("inner")], "not in sight"),
        // mov al, [rsi]
        (&[Bytes(&[0x8a, 0x06]), Jump("inner")], "does something with argument 1"),
        // mov [rdi], rsi
        (&[Bytes(&[0x48, 0x89, 0x37]), Jump("inner")], "does something with argument 1"),
        // mov esi, esi
        (&[Bytes(&[0x89, 0xf6]), Jump("inner")], "does something with argument 1"),
        // movq xmm0, rsi
        (&[Bytes(&[0x66, 0x48, 0x0f, 0x6e, 0xc6]), Jump("inner")], "does something with argument 1"),
        // mov edx, 5
        (&[Bytes(&[0xba, 5, 0, 0, 0]), Jump("inner")], "argument 2 is not shown to be in its place"),
        // test edx, edx; je +3; xor edi, edi; nop
        (&[Bytes(&[0x85, 0xd2, 0x74, 0x03, 0x31, 0xff, 0x90]), Jump("inner")], "argument 0 is not shown"),
        // mov rdi, rsi: to another function, and nowhere else.
        (&[Bytes(&[0x48, 0x89, 0xf7]), Jump("other")], "argument 0 is not shown"),
        // push rdi, rsi, rdx; mov rdi, rsi; call other; pop rdx, rsi, rdi; call inner; ret
        (
            &[
                Bytes(&[0x57, 0x56, 0x52, 0x48, 0x89, 0xf7]),
                Call("other"),
                Bytes(&[0x5a, 0x5e, 0x5f]),
                Call("inner"),
                Bytes(&[0xc3]),
            ],
            "argument 0 is not shown",
        ),
        // The same with its place in the frame: lea rdi, [rsp]
        (
            &[
                Bytes(&[0x57, 0x56, 0x52, 0x48, 0x8d, 0x3c, 0x24, 0x31, 0xf6]),
                Call("other"),
                Bytes(&[0x5a, 0x5e, 0x5f]),
                Call("inner"),
                Bytes(&[0xc3]),
            ],
            "may be handed to another function",
        ),
        // L: push rdi, rsi, rdx; call inner; pop rdx, rsi, rdi; test eax, eax; jne L; ret
        (
            &[Bytes(&[0x57, 0x56, 0x52]), Call("inner"), Bytes(&[0x5a, 0x5e, 0x5f, 0x85, 0xc0, 0x75, 0xf1, 0xc3])],
            "more than once",
        ),
        (&[DOWN, UP], "no function of the file is given argument 1"),
        (&[Bytes(&[0x90])], "it runs into what follows"),
    ];
    for (w, words) in cases {
        // mov rax, [rdi]; ret
        let why = refused(w, &[Bytes(&[0x48, 0x8b, 0x07, 0xc3])]);
        assert!(why.contains(words), "no {words:?} in {why:?}");
    }
    // On one path the buffer, on the other nothing: test edx, edx; je +3; mov rdi, rsi; call other; ret
    let maybe = [DOWN, Bytes(&[0x31, 0xff, 0x85, 0xd2, 0x74, 0x03, 0x48, 0x89, 0xf7]), Call("other"), UP];
    assert!(refused(&maybe, &[Bytes(&[0x48, 0x8b, 0x07, 0xc3])]).contains("argument 0 is not shown"));
}

#[test]
fn the_function_must_use_the_arguments_and_serve_every_wrapper() {
    // mov rax, rdi; add rax, rsi; ret: nothing of argument 2
    let two = [Bytes(&[0x48, 0x89, 0xf8, 0x48, 0x01, 0xf0, 0xc3])];
    let file = link(&[("w", NARROWS), ("w_ex", PASSES_ON), ("inner", &two)]).build();
    let wanted = |wrappers: &[&str], out| probe(WantedKind::Entry, behind(wrappers, out), 3);
    assert!(failure(&file, wanted(&["w"], None)).contains("not shown to use argument 2"));

    let other = [DOWN, Call("other"), UP];
    let file = link(&[("w", NARROWS), ("w_ex", &other), ("inner", USES_4), ("other", USES_4)]).build();
    let why = failure(&file, wanted(&["w", "w_ex"], None));
    assert!(why.contains("no function is behind all of them") && why.contains("behind w_ex is 0x1040"), "{why}");
    assert!(failure(&file, wanted(&["w", "absent"], None)).contains("no function is named `absent`"));
    assert!(failure(&file, wanted(&["w"], Some(("w", 4)))).contains("argument 4 of w is not shown"));
    // What `w` has as argument 3 goes nowhere: it gives `inner` a place of its own.
    assert!(failure(&file, wanted(&["w"], Some(("w", 3)))).contains("argument 3 of w is not shown"));
}

#[test]
fn without_known_bounds_nothing_is_proven() {
    let file = Elf::of_code(&[0xeb, 0xfe]).function("w", 0, 0).build();
    let why = failure(&file, probe(WantedKind::Entry, behind(&["w"], None), 3));
    assert!(why.contains("end is not known"), "{why}");
}

#[test]
fn a_wrapper_that_is_no_small_function_is_given_up() {
    // L: 7000 times nop; xor edi, edi; jne L; ret: each once with and once without argument 0.
    let mut code = vec![0x90; 7000];
    code.extend([0x31, 0xff, 0x0f, 0x85]);
    code.extend((-7008_i32).to_le_bytes());
    code.push(0xc3);
    let file = Elf::of_code(&code).function("w", 0, code.len() as u64).build();
    let why = failure(&file, probe(WantedKind::Entry, behind(&["w"], None), 3));
    assert!(why.contains("more work than is allowed"), "{why}");
    // push rax, 100 times
    let file = Elf::of_code(&[0x50; 100]).function("w", 0, 100).build();
    let why = failure(&file, probe(WantedKind::Entry, behind(&["w"], None), 3));
    assert!(why.contains("keeps more in its frame"), "{why}");
}
