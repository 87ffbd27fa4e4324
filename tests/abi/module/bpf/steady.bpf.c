// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* Sends what steady_say(text, length, number) is given. */
#include <ecapture/ecapture.h>

struct said {
	__s64 number;
};

SEC("uprobe")
int steady_said(struct pt_regs *ctx)
{
	struct ecap_message m = ecap_message(ctx);
	struct said *said;
	if (!ecap_wanted())
		return 0;
	said = ecap_begin(&m, 0, sizeof(*said), ecap_user_ptr(ecap_arg0(ctx)), ecap_arg1(ctx), 1 << 20);
	if (said) {
		said->number = ecap_arg2(ctx);
		ecap_end(&m);
	}
	return 0;
}

ECAP_LICENSE("GPL");
