/*
 * controls.h: constants of prctl(2), arch_prctl(2) and sched_setattr(2) that Debian 12's headers do not
 * have, and what is shared by those who read and those who set them.
 */
#ifndef PAWL_CHECKPOINTER_TRACEE_CONTROLS_H
#define PAWL_CHECKPOINTER_TRACEE_CONTROLS_H

#include <stdint.h>

/* include/uapi/linux/prctl.h */
#ifndef PR_SET_MDWE
#define PR_SET_MDWE 65 /* Linux 6.3 */
#define PR_GET_MDWE 66
#endif
#ifndef PR_SET_MEMORY_MERGE
#define PR_SET_MEMORY_MERGE 67 /* Linux 6.4 */
#define PR_GET_MEMORY_MERGE 68
#endif

/* arch/x86/include/uapi/asm/prctl.h */
#ifndef ARCH_GET_CPUID
#define ARCH_GET_CPUID 0x1011
#define ARCH_SET_CPUID 0x1012
#endif
#ifndef ARCH_GET_UNTAG_MASK
#define ARCH_GET_UNTAG_MASK 0x4001 /* Linux 6.4 */
#endif
#ifndef ARCH_SHSTK_STATUS
#define ARCH_SHSTK_STATUS 0x5005 /* Linux 6.6 */
#endif

/* PR_SPEC_STORE_BYPASS, PR_SPEC_INDIRECT_BRANCH, PR_SPEC_L1D_FLUSH */
#define N_SPECULATION 3

/* struct sched_attr (include/uapi/linux/sched/types.h), which clashes with glibc's headers in some versions. */
struct sched_attributes {
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime, deadline, period;
	uint32_t util_min, util_max;
};
_Static_assert(sizeof(struct sched_attributes) == 56, "struct sched_attr of the kernel");

#ifndef SCHED_DEADLINE
#define SCHED_DEADLINE 6
#endif
#define SCHED_CAPACITY 1024 /* SCHED_CAPACITY_SCALE: the largest util_max, and the default */

#endif
