//! Which instruction is chosen, on hand-assembled functions.

use super::super::plan::{Cost, FileKind, Locator, PointKind, ScoutRequest, WantedKind};
use super::builder::{CODE, DATA, Elf};
use super::{analyse, failure, placed, probe, symbol};

const ENDBR64: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];
const PUSH_POP_RET: [u8; 3] = [0x55, 0x5d, 0xc3];

fn code(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

fn entry(file: &Elf, args: u8) -> super::Placed {
    placed(&file.build(), probe(WantedKind::Entry, symbol("f"), args))
}

fn returned(file: &Elf) -> super::Placed {
    placed(&file.build(), probe(WantedKind::Return, symbol("f"), 0))
}

fn at_offset(offset: u64, kind: WantedKind) -> super::ProbeWanted {
    probe(kind, Locator::SymbolOffset("f".to_owned(), offset), 6)
}

#[test]
fn entry_and_return_move_past_endbr64() {
    let file = Elf::of_function(&code(&[&ENDBR64, &PUSH_POP_RET]));
    for (point, kind) in [(entry(&file, 6), PointKind::Entry), (returned(&file), PointKind::Return)] {
        assert_eq!(point.delta, 4);
        assert_eq!(point.points.len(), 1);
        assert_eq!((point.points[0].offset, point.points[0].kind), (CODE + 4, kind));
        assert_eq!((point.cost, point.function_offset), (Cost::Emulated, CODE));
        assert_eq!((point.instruction.as_str(), point.function.as_str()), ("push rbp", "f"));
    }
}

#[test]
fn a_cheap_first_instruction_is_taken_as_it_is() {
    let point = entry(&Elf::of_function(&PUSH_POP_RET), 6);
    assert_eq!((point.delta, point.cost), (0, Cost::Emulated));
}

#[test]
fn a_loop_head_stays_at_the_start() {
    // endbr64; L: pause; cmp byte [rdi], 0; jne L; ret
    let file = Elf::of_function(&code(&[&ENDBR64, &[0xf3, 0x90, 0x80, 0x3f, 0x00, 0x75, 0xf9, 0xc3]]));
    let point = entry(&file, 1);
    assert_eq!((point.delta, point.cost), (0, Cost::Stepped));
    assert!(point.why.contains("a jump at 0x1009"), "{}", point.why);
}

#[test]
fn a_loop_back_to_the_first_instruction_is_said() {
    // L: pause; cmp byte [rdi], 0; jne L; ret
    let point = entry(&Elf::of_function(&[0xf3, 0x90, 0x80, 0x3f, 0x00, 0x75, 0xf9, 0xc3]), 1);
    assert_eq!(point.delta, 0);
    assert!(point.why.contains("a jump at 0x1005 leads back"), "{}", point.why);
}

#[test]
fn a_jump_from_far_away_keeps_the_probe_at_the_start() {
    // Another function, beyond the reach of short jumps, jumps to the push.
    let mut bytes = code(&[&ENDBR64, &PUSH_POP_RET]);
    let f = bytes.len() as u64;
    bytes.resize(0x400, 0xcc);
    bytes.extend([0xe9]);
    bytes.extend((4i32 - 0x405).to_le_bytes());
    let file = Elf::of_code(&bytes).function("f", 0, f).function("g", 0x400, 5);
    let point = entry(&file, 0);
    assert_eq!(point.delta, 0);
    assert!(point.why.contains("a jump at 0x1400"), "{}", point.why);
}

#[test]
fn a_second_symbol_or_a_pointer_in_data_keeps_the_probe_at_the_start() {
    let bytes = code(&[&ENDBR64, &PUSH_POP_RET]);
    assert_eq!(entry(&Elf::of_function(&bytes).function("g", 4, 3), 0).delta, 0);
    assert_eq!(entry(&Elf::of_function(&bytes).data(&(CODE + 4).to_le_bytes()), 0).delta, 0);
    assert_eq!(entry(&Elf::of_function(&bytes).data(&(CODE + 5).to_le_bytes()), 0).delta, 4);
}

#[test]
fn a_written_argument_register_stops_the_entry_but_not_the_return() {
    // endbr64; mov edi, eax; push rbp; pop rbp; ret
    let file = Elf::of_function(&code(&[&ENDBR64, &[0x89, 0xc7], &PUSH_POP_RET]));
    let needed = entry(&file, 1);
    assert_eq!(needed.delta, 0);
    assert!(needed.why.contains("writes the argument register rdi"), "{}", needed.why);
    assert_eq!(entry(&file, 0).delta, 6);
    assert_eq!(returned(&file).delta, 6);
}

#[test]
fn a_write_to_foreign_memory_stops_the_entry_and_one_to_the_frame_does_not() {
    let foreign = Elf::of_function(&code(&[&ENDBR64, &[0xc6, 0x07, 0x00], &PUSH_POP_RET])); // mov byte [rdi], 0
    assert_eq!(entry(&foreign, 1).delta, 0);
    let own = Elf::of_function(&code(&[&ENDBR64, &[0xc6, 0x44, 0x24, 0xf8, 0x00], &PUSH_POP_RET])); // mov byte [rsp-8], 0
    assert_eq!(entry(&own, 1).delta, 9);
    let caller = Elf::of_function(&code(&[&ENDBR64, &[0xc6, 0x44, 0x24, 0x08, 0x00], &PUSH_POP_RET])); // mov byte [rsp+8], 0
    assert_eq!(entry(&caller, 1).delta, 0);
}

#[test]
fn arguments_on_the_stack_need_the_stack_pointer_of_the_entry() {
    // sub rsp, 8; push rbp; ...
    let file = Elf::of_function(&code(&[&[0x48, 0x83, 0xec, 0x08], &PUSH_POP_RET]));
    assert_eq!(entry(&file, 6).delta, 4);
    assert_eq!(entry(&file, 7).delta, 0);
}

#[test]
fn an_offset_inside_an_instruction_is_refused_and_not_moved() {
    let file = Elf::of_code(&code(&[&ENDBR64, &PUSH_POP_RET, &PUSH_POP_RET])).function("f", 0, 7).build();
    for offset in 1..4 {
        let why = failure(&file, at_offset(offset, WantedKind::Entry));
        assert!(why.contains("inside the instruction `endbr64`"), "{why}");
    }
    let point = placed(&file, at_offset(5, WantedKind::Entry));
    assert_eq!((point.delta, point.cost, point.instruction.as_str()), (5, Cost::Stepped, "pop rbp"));
    let why = failure(&file, at_offset(7, WantedKind::Entry));
    assert!(why.contains("outside the function"), "{why}");
    assert!(!failure(&file, at_offset(u64::MAX, WantedKind::Entry)).is_empty());
}

#[test]
fn an_offset_needs_a_known_end_of_the_function() {
    let bytes = code(&[&ENDBR64, &PUSH_POP_RET]);
    let file = Elf::of_code(&bytes).function("f", 0, 0);
    assert!(failure(&file.build(), at_offset(4, WantedKind::Entry)).contains("ends"));
    let point = entry(&file, 0);
    assert_eq!(point.delta, 0, "nothing behind the first instruction is known: {}", point.why);
}

#[test]
fn a_jump_into_the_instruction_asked_for_is_refused() {
    // jmp +1 (to 3); mov eax, imm32 (2..7); ret: the jump leads into the mov
    let file = Elf::of_function(&[0xeb, 0x01, 0xb8, 0x90, 0x90, 0x90, 0x90, 0xc3]).build();
    let why = failure(&file, at_offset(2, WantedKind::Entry));
    assert!(why.contains("into the middle"), "{why}");
}

#[test]
fn a_return_probe_behind_a_push_is_refused() {
    let file = Elf::of_function(&code(&[&ENDBR64, &PUSH_POP_RET])).build();
    assert_eq!(placed(&file, at_offset(4, WantedKind::Return)).points[0].kind, PointKind::Return);
    let why = failure(&file, at_offset(5, WantedKind::Return));
    assert!(why.contains("stack pointer"), "{why}");
}

#[test]
fn dangerous_first_instructions_are_failed_or_left_behind() {
    // lock add dword [rdi], 1; push rbp; ... : behind it the memory is written
    let file = Elf::of_function(&code(&[&[0xf0, 0x83, 0x07, 0x01], &PUSH_POP_RET]));
    let why = failure(&file.build(), probe(WantedKind::Entry, symbol("f"), 1));
    assert!(why.contains("LOCK"), "{why}");
    assert_eq!(returned(&file).delta, 4);
    // pushfq; xor eax, eax; ret: nothing cheap, but the next instruction is safe
    let file = Elf::of_function(&[0x9c, 0x31, 0xc0, 0xc3]);
    let point = entry(&file, 1);
    assert_eq!((point.delta, point.cost), (1, Cost::Stepped));
    assert!(failure(&file.build(), probe(WantedKind::Return, symbol("f"), 0)).contains("trap flag"));
    // xchg r8, rax; ret
    let file = Elf::of_function(&[0x49, 0x90, 0xc3]).build();
    assert!(failure(&file, at_offset(0, WantedKind::Entry)).contains("nop"));
}

/// sub rsp, 8; call f; test eax, eax; jne FAIL; add rsp, 8; ret; FAIL: call f
const CHECKED: [u8; 23] = [
    0x48, 0x83, 0xec, 0x08, 0xe8, 0xf7, 0xff, 0xff, 0xff, 0x85, 0xc0, 0x75, 0x05, 0x48, 0x83, 0xc4, 0x08, 0xc3, 0xe8,
    0xe9, 0xff, 0xff, 0xff,
];

#[test]
fn exit_points_serve_where_no_return_point_is_cheap() {
    let file = Elf::of_function(&CHECKED);
    let mut wanted = probe(WantedKind::Return, symbol("f"), 0);
    let point = placed(&file.build(), wanted.clone());
    assert_eq!((point.points[0].kind, point.delta, point.cost), (PointKind::Return, 0, Cost::Stepped));
    wanted.exit_ok = true;
    let point = placed(&file.build(), wanted.clone());
    assert_eq!((point.points[0].kind, point.delta, point.cost), (PointKind::Exit, 11, Cost::Emulated));
    // A pointer to the epilogue is a way around the exit point.
    let point = placed(&file.data(&(CODE + 13).to_le_bytes()).build(), wanted);
    assert_eq!(point.points[0].kind, PointKind::Return);
    assert!(point.why.contains("a pointer"), "{}", point.why);
}

#[test]
fn code_that_runs_into_the_epilogue_unseen_forbids_exit_points() {
    // As above, but an unreachable nop-less `xor eax, eax` (a landing pad) stands before the epilogue:
    // ...; jne FAIL; jmp OUT; xor eax, eax; OUT: add rsp, 8; ret; FAIL: call f
    let bytes = code(&[&CHECKED[..11], &[0x75, 0x09, 0xeb, 0x02, 0x31, 0xc0], &CHECKED[13..]]);
    let mut wanted = probe(WantedKind::Return, symbol("f"), 0);
    wanted.exit_ok = true;
    let point = placed(&Elf::of_function(&bytes).build(), wanted);
    assert_eq!(point.points[0].kind, PointKind::Return);
    assert!(point.why.contains("unknown code runs into"), "{}", point.why);
}

#[test]
fn jump_tables_must_be_found() {
    // endbr64; push rbp; lea rdx, [rip + TABLE]; add rax, rdx; jmp rax; pop rbp; ret
    let table = (DATA as i64 - (CODE as i64 + 12)) as i32;
    let bytes =
        code(&[&ENDBR64, &[0x55, 0x48, 0x8d, 0x15], &table.to_le_bytes(), &[0x48, 0x01, 0xd0, 0xff, 0xe0, 0x5d, 0xc3]]);
    let file = Elf::of_function(&bytes);
    assert!(entry(&file, 0).why.contains("was not found"));
    let to = |va: u64| ((va as i64 - DATA as i64) as i32).to_le_bytes();
    assert_eq!(entry(&file.clone().data(&to(CODE + 17)), 0).delta, 4);
    let into_window = entry(&file.data(&code(&[&to(CODE + 17), &to(CODE + 4)])), 0);
    assert_eq!(into_window.delta, 0);
    assert!(into_window.why.contains("jump table"), "{}", into_window.why);
}

#[test]
fn calls_are_not_emulated_where_hardware_checks_return_addresses() {
    let file = Elf::of_function(&code(&[&ENDBR64, &[0xe8, 0, 0, 0, 0, 0xc3]]));
    assert_eq!(entry(&file, 1).delta, 4);
    assert_eq!(entry(&file.shadow_stack(), 1).delta, 0);
}

#[test]
fn go_programs_get_no_return_probes() {
    let file = Elf::of_function(&PUSH_POP_RET).go().build();
    assert!(failure(&file, probe(WantedKind::Return, symbol("f"), 0)).contains("Go"));
    assert!(failure(&file, at_offset(0, WantedKind::Return)).contains("Go"));
    assert_eq!(placed(&file, probe(WantedKind::Entry, symbol("f"), 0)).delta, 0);
}

#[test]
fn functions_without_symbols_are_found_by_address() {
    let bytes = code(&[&ENDBR64, &PUSH_POP_RET]);
    let file = Elf::of_code(&bytes).unwind(0, bytes.len() as u64).build();
    let point = placed(&file, probe(WantedKind::Entry, Locator::FunctionAt(CODE), 6));
    assert_eq!((point.delta, point.function.as_str()), (4, "function at 0x1000"));
    for va in [CODE + 4, DATA, 0, u64::MAX] {
        let why = failure(&file, probe(WantedKind::Entry, Locator::FunctionAt(va), 6));
        assert!(why.contains("starts at"), "{why}");
    }
}

#[test]
fn a_symbol_inside_an_instruction_of_another_function_is_refused() {
    let bytes = code(&[&ENDBR64, &PUSH_POP_RET]);
    let file = Elf::of_code(&bytes).unwind(0, bytes.len() as u64).function("f", 1, 6).build();
    let why = failure(&file, probe(WantedKind::Entry, symbol("f"), 0));
    assert!(why.contains("inside the instruction"), "{why}");
}

#[test]
fn names_must_mean_one_function() {
    let bytes = code(&[&PUSH_POP_RET, &PUSH_POP_RET]);
    let wanted = || probe(WantedKind::Entry, symbol("f"), 0);
    let twice = Elf::of_code(&bytes).local("f", 0, 3).local("f", 3, 3);
    assert!(failure(&twice.build(), wanted()).contains("more than one"));
    // The global one wins over locals of the same name.
    assert_eq!(placed(&twice.function("f", 3, 3).build(), wanted()).function_offset, CODE + 3);
    assert!(failure(&Elf::of_code(&bytes).indirect("f", 0).build(), wanted()).contains("indirect"));
    assert!(failure(&Elf::of_code(&bytes).build(), wanted()).contains("no function is named `f`"));
}

#[test]
fn the_function_called_with_strings_is_found() {
    // f: lea rsi, ["LABEL_A"]; call h; lea rsi, ["LABEL_B"]; call h; lea rsi, ["LABEL_A"]; call g; ret; g: ret; h: push..
    let mut bytes = Vec::new();
    let mut call_with = |string: u64, callee: i64| {
        bytes.extend([0x48, 0x8d, 0x35]);
        bytes.extend(((string as i64 - (CODE as i64 + bytes.len() as i64 + 4)) as i32).to_le_bytes());
        bytes.push(0xe8);
        bytes.extend(((callee - (bytes.len() as i64 + 4)) as i32).to_le_bytes());
    };
    let (g, h) = (37, 38);
    call_with(DATA, h);
    call_with(DATA + 8, h);
    call_with(DATA, g);
    bytes.push(0xc3);
    assert_eq!(bytes.len(), g as usize);
    bytes.push(0xc3);
    bytes.extend(PUSH_POP_RET);
    let file = Elf::of_code(&bytes).function("f", 0, 37).function("h", 38, 3).data(b"LABEL_A\0LABEL_B\0").build();
    let wanted = |strings: &[&str], min| {
        let strings = strings.iter().map(|s| (*s).to_owned()).collect();
        probe(WantedKind::Entry, Locator::CalleeOfStrings { strings, min, field: None }, 2)
    };
    let point = placed(&file, wanted(&["LABEL_A", "LABEL_B"], 2));
    assert_eq!((point.function.as_str(), point.function_offset), ("h", CODE + 38));
    assert_eq!(placed(&file, wanted(&["LABEL_A", "LABEL_B"], 1)).function, "h", "more strings win");
    assert!(failure(&file, wanted(&["LABEL_A"], 1)).contains("2 functions"));
    assert!(failure(&file, wanted(&["LABEL_A"], 2)).contains("no function"));
    assert!(failure(&file, wanted(&["ABSENT"], 1)).contains("none of the strings"));
    assert!(failure(&file, wanted(&[], 1)).contains("takes 1 to"));
}

/// A label that waits for a call behind another one is no argument of that one.
#[test]
fn the_function_that_strings_are_handed_to_wins() {
    // f: lea REGISTER, ["LABEL_A"]; BETWEEN; call g; lea rsi, ["LABEL_A"]; call h; ret; g: ret; h: push ...
    let file = |register: u8, between: &[u8]| {
        let mut bytes = Vec::new();
        let g = 25 + between.len() as i64;
        for (register, between, callee) in [(register, between, g), (0x35, &[][..], g + 1)] {
            bytes.extend([0x48, 0x8d, register]);
            bytes.extend(((DATA as i64 - (CODE as i64 + bytes.len() as i64 + 4)) as i32).to_le_bytes());
            bytes.extend(between);
            bytes.push(0xe8);
            bytes.extend(((callee - (bytes.len() as i64 + 4)) as i32).to_le_bytes());
        }
        bytes.extend([0xc3, 0xc3]);
        bytes.extend(PUSH_POP_RET);
        let (g, h) = (g as u64, g as u64 + 1);
        Elf::of_code(&bytes).function("f", 0, g).function("g", g, 1).function("h", h, 3).data(b"LABEL_A\0").build()
    };
    let wanted = || {
        let strings = vec!["LABEL_A".to_owned()];
        probe(WantedKind::Entry, Locator::CalleeOfStrings { strings, min: 1, field: None }, 2)
    };
    // Into rax; into rdx, and then xor edx, edx, or mov rdx, [rsp].
    for (register, between) in [(0x05, &[][..]), (0x15, &[0x31, 0xd2]), (0x15, &[0x48, 0x8b, 0x14, 0x24])] {
        assert_eq!(placed(&file(register, between), wanted()).function, "h");
    }
    // Into rdx, which is kept: mov rax, rdx.
    assert!(failure(&file(0x15, &[0x48, 0x89, 0xd0]), wanted()).contains("2 functions"));
}

#[test]
fn request_and_answer_have_the_agreed_json() {
    let request = r#"{"probes":[{"index":3,"kind":"entry","at":{"symbol":"f"},"args":4},
        {"index":4,"kind":"return","at":{"symbol_offset":["f",1]},"args":0,"exit_ok":true},
        {"index":5,"kind":"entry","at":{"function_at":4096}},
        {"index":6,"kind":"entry","at":{"callee_of_strings":{"strings":["x"],"min":2}},"args":1}]}"#;
    let request: ScoutRequest = serde_json::from_str(request).expect("the request");
    assert_eq!(request.probes[2].args, 6);
    let answer = analyse(&Elf::of_function(&PUSH_POP_RET).build(), &request);
    let file = answer.file.as_ref().expect("facts of the file");
    assert_eq!((file.kind, file.build_id.as_deref()), (FileKind::Library, Some("abcdef01")));
    let json = serde_json::to_value(&answer).expect("JSON");
    assert_eq!(json["placed"][0]["index"], 3);
    assert_eq!(json["placed"][0]["points"][0], serde_json::json!({"offset": 4096, "kind": "entry"}));
    assert_eq!((&json["placed"][0]["cost"], &json["placed"][0]["delta"]), (&"emulated".into(), &0.into()));
    assert_eq!(json["file"]["machine"], "x86_64");
    assert_eq!(json["failed"].as_array().map(Vec::len), Some(2), "{json}");
    assert_eq!(serde_json::from_value::<super::ScoutAnswer>(json).expect("the answer"), answer);
}
