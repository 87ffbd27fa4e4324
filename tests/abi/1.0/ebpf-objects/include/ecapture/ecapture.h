/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * All of the kernel-side SDK. A program in ten lines:
 *
 *	#include <ecapture/ecapture.h>
 *
 *	SEC("uprobe")
 *	int on_query(struct pt_regs *ctx)
 *	{
 *		struct ecap_message m = ecap_message(ctx);
 *		struct query *q;
 *		if (!ecap_wanted())
 *			return 0;
 *		q = ecap_begin(&m, 0, sizeof(*q), ecap_user_ptr(ecap_arg1(ctx)), ecap_arg2(ctx), 1 << 20);
 *		if (q) {
 *			q->connection = ecap_arg0(ctx);
 *			ecap_end(&m);
 *		}
 *		return 0;
 *	}
 *
 *	ECAP_LICENSE("GPL");
 */
#ifndef ECAP_ECAPTURE_H
#define ECAP_ECAPTURE_H

#include <ecapture/args.h>
#include <ecapture/bpf.h>
#include <ecapture/emit.h>
#include <ecapture/filter.h>
#include <ecapture/maps.h>
#include <ecapture/record.h>
#include <ecapture/state.h>
#include <ecapture/types.h>

#endif
