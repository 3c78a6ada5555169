/*
 * avx512.c: the thirty-two ZMM registers and the eight mask registers live across the snapshot.
 */
#include "xstate.h"

#include <string.h>

#define N_REGS	  32
#define REG_BYTES 64

struct regs {
	uint8_t zmm[N_REGS][REG_BYTES];
	uint64_t mask[8];
};

__attribute__((target("avx512f,avx512bw"))) static void hold(struct regs *regs, volatile int *told)
{
	__asm__ volatile(".irp n, "
			 "0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,"
			 "27,28,29,30,31\n"
			 "vmovdqu64 \\n * 64(%0), %%zmm\\n\n"
			 ".endr\n"
			 ".irp n, 0,1,2,3,4,5,6,7\n"
			 "kmovq 2048 + \\n * 8(%0), %%k\\n\n"
			 ".endr\n"
			 "1: pause\n"
			 "cmpl $0, (%1)\n"
			 "je 1b\n"
			 ".irp n, 0,1,2,3,4,5,6,7\n"
			 "kmovq %%k\\n, 2048 + \\n * 8(%0)\n"
			 ".endr\n"
			 ".irp n, "
			 "0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,"
			 "27,28,29,30,31\n"
			 "vmovdqu64 %%zmm\\n, \\n * 64(%0)\n"
			 ".endr\n"
			 "vzeroupper\n"
			 :
			 : "r"(regs), "r"(told)
			 : "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7",
			   "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15",
			   "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23",
			   "xmm24", "xmm25", "xmm26", "xmm27", "xmm28", "xmm29", "xmm30", "xmm31",
			   "k1", "k2", "k3", "k4", "k5", "k6", "k7");
}

int main(int argc, char **argv)
{
	struct xstate_watch watch = {0};
	struct regs regs, before;

	if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw"))
		target_skip("this CPU has no AVX-512");
	pattern_fill(&regs, sizeof(regs), 1);
	before = regs;
	xstate_watch_start(&watch, argc, argv);
	hold(&regs, &watch.told);
	CHECK(!memcmp(&regs, &before, sizeof(regs)));
	return xstate_watch_pass(&watch);
}
