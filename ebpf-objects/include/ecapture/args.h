/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * Arguments and results of probed functions, by the C calling conventions of x86-64 (System V) and arm64 (AAPCS64).
 * Written against the registers as the kernel hands them to uprobe programs; the layout is kernel ABI (asm/ptrace.h).
 */
#ifndef ECAP_ARGS_H
#define ECAP_ARGS_H

#include <ecapture/bpf.h>

/* In assembly: the compiler would turn two branches' reads into one read at a computed offset, which the verifier refuses
 * ("dereference of modified ctx ptr"); volatile does not keep it from that. */
#define ECAP_REG_(ctx, field)                                                                                          \
	({                                                                                                             \
		__u64 reg_;                                                                                            \
		asm volatile("%0 = *(u64 *)(%1 + %2)"                                                                  \
			     : "=r"(reg_)                                                                              \
			     : "r"(ctx), "i"(__builtin_offsetof(struct pt_regs, field)));                              \
		reg_;                                                                                                  \
	})

#if defined(__TARGET_ARCH_x86)

struct pt_regs {
	__u64 r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi, orig_rax, rip, cs, eflags, rsp, ss;
};

/* Integer or pointer argument `n`, from 0. `n` must be a constant below ECAP_REGISTER_ARGS. */
#define ecap_arg0(ctx) ECAP_REG_(ctx, rdi)
#define ecap_arg1(ctx) ECAP_REG_(ctx, rsi)
#define ecap_arg2(ctx) ECAP_REG_(ctx, rdx)
#define ecap_arg3(ctx) ECAP_REG_(ctx, rcx)
#define ecap_arg4(ctx) ECAP_REG_(ctx, r8)
#define ecap_arg5(ctx) ECAP_REG_(ctx, r9)
#define ECAP_REGISTER_ARGS 6
/* The value that the function returned; valid in return and exit probes. */
#define ecap_result(ctx) ECAP_REG_(ctx, rax)
#define ecap_sp(ctx) ECAP_REG_(ctx, rsp)

/* Register `number` of those that may hold something to a function's end. */
ECAP_INLINE __u64 ecap_kept_(struct pt_regs *ctx, __u32 number)
{
	switch (number & 7) {
	case 0:
		return ECAP_REG_(ctx, rax);
	case 1:
		return ECAP_REG_(ctx, rbx);
	case 2:
		return ECAP_REG_(ctx, rbp);
	case 3:
		return ECAP_REG_(ctx, r12);
	case 4:
		return ECAP_REG_(ctx, r13);
	case 5:
		return ECAP_REG_(ctx, r14);
	default:
		return ECAP_REG_(ctx, r15);
	}
}

/* Go since 1.17 (ABIInternal): integer arguments and results in these registers; no return probes in Go. */
#define ecap_go_arg0(ctx) ECAP_REG_(ctx, rax)
#define ecap_go_arg1(ctx) ECAP_REG_(ctx, rbx)
#define ecap_go_arg2(ctx) ECAP_REG_(ctx, rcx)
#define ecap_go_arg3(ctx) ECAP_REG_(ctx, rdi)
#define ecap_go_arg4(ctx) ECAP_REG_(ctx, rsi)
#define ecap_go_arg5(ctx) ECAP_REG_(ctx, r8)

#elif defined(__TARGET_ARCH_arm64)

struct pt_regs {
	__u64 regs[31], sp, pc, pstate;
};

#define ecap_arg0(ctx) ECAP_REG_(ctx, regs[0])
#define ecap_arg1(ctx) ECAP_REG_(ctx, regs[1])
#define ecap_arg2(ctx) ECAP_REG_(ctx, regs[2])
#define ecap_arg3(ctx) ECAP_REG_(ctx, regs[3])
#define ecap_arg4(ctx) ECAP_REG_(ctx, regs[4])
#define ecap_arg5(ctx) ECAP_REG_(ctx, regs[5])
#define ecap_arg6(ctx) ECAP_REG_(ctx, regs[6])
#define ecap_arg7(ctx) ECAP_REG_(ctx, regs[7])
#define ECAP_REGISTER_ARGS 8
#define ecap_result(ctx) ECAP_REG_(ctx, regs[0])
#define ecap_sp(ctx) ECAP_REG_(ctx, sp)

ECAP_INLINE __u64 ecap_kept_(struct pt_regs *ctx, __u32 number)
{
	switch (number & 7) {
	case 0:
		return ECAP_REG_(ctx, regs[0]);
	case 1:
		return ECAP_REG_(ctx, regs[19]);
	case 2:
		return ECAP_REG_(ctx, regs[20]);
	case 3:
		return ECAP_REG_(ctx, regs[21]);
	case 4:
		return ECAP_REG_(ctx, regs[22]);
	case 5:
		return ECAP_REG_(ctx, regs[23]);
	default:
		return ECAP_REG_(ctx, regs[24]);
	}
}

#define ecap_go_arg0(ctx) ECAP_REG_(ctx, regs[0])
#define ecap_go_arg1(ctx) ECAP_REG_(ctx, regs[1])
#define ecap_go_arg2(ctx) ECAP_REG_(ctx, regs[2])
#define ecap_go_arg3(ctx) ECAP_REG_(ctx, regs[3])
#define ecap_go_arg4(ctx) ECAP_REG_(ctx, regs[4])
#define ecap_go_arg5(ctx) ECAP_REG_(ctx, regs[5])

#else
#error "define __TARGET_ARCH_x86 or __TARGET_ARCH_arm64 (the build helper does)"
#endif

/* What the function returns, and argument `n` that it was called with, from 0; valid in probes of kind `exit`, and only as many
 * arguments as the plan says. */
#define ecap_exit_value(ctx) ecap_kept_((ctx), ecap_probe_arg(ctx))
#define ecap_exit_arg(ctx, n) ecap_kept_((ctx), ecap_probe_arg(ctx) >> 3 * ((n) + 1))

#define ecap_user_ptr(value) ((const void *)(unsigned long)(value))

/* Argument that is passed on the stack, `slot` 0 being the first such one. Only right where the stack pointer still points
 * at the return address (x86-64), so the plan must declare the probe with that many arguments: the point is then not moved
 * past anything that changes the stack pointer. Gives 0 if the stack cannot be read. */
ECAP_INLINE __u64 ecap_stack_arg(struct pt_regs *ctx, int slot)
{
	__u64 value = 0;
#if defined(__TARGET_ARCH_x86)
	bpf_probe_read_user(&value, sizeof(value), ecap_user_ptr(ecap_sp(ctx) + 8 + 8 * slot));
#else
	bpf_probe_read_user(&value, sizeof(value), ecap_user_ptr(ecap_sp(ctx) + 8 * slot));
#endif
	return value;
}

/* Reads a value of the target: 0 on success. `into` must not be larger than 8 bytes if it is on the stack
 * (see emit.h on stack depth). */
#define ecap_read_user(into, from) bpf_probe_read_user((into), sizeof(*(into)), ecap_user_ptr(from))

#endif
