/*
 * fpu.c: x87 stack and control word, MXCSR, and the sixteen AVX registers (SSE ones where the CPU
 * has no AVX), live in registers across the snapshot.
 */
#include "xstate.h"

#include <string.h>

#define N_REGS	  16
#define REG_BYTES 32

static void hold_ymm(uint8_t (*regs)[REG_BYTES], volatile int *told)
{
	__asm__ volatile(".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
			 "vmovdqu \\n * 32(%0), %%ymm\\n\n"
			 ".endr\n"
			 "1: pause\n"
			 "cmpl $0, (%1)\n"
			 "je 1b\n"
			 ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
			 "vmovdqu %%ymm\\n, \\n * 32(%0)\n"
			 ".endr\n"
			 "vzeroupper\n"
			 :
			 : "r"(regs), "r"(told)
			 : "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7",
			   "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
}

static void hold_xmm(uint8_t (*regs)[REG_BYTES], volatile int *told)
{
	__asm__ volatile(".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
			 "movdqu \\n * 32(%0), %%xmm\\n\n"
			 ".endr\n"
			 "1: pause\n"
			 "cmpl $0, (%1)\n"
			 "je 1b\n"
			 ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
			 "movdqu %%xmm\\n, \\n * 32(%0)\n"
			 ".endr\n"
			 :
			 : "r"(regs), "r"(told)
			 : "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7",
			   "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
}

/* Eight values on the x87 stack with the precision control at 53 bits. */
static void *hold_x87(void *arg)
{
	struct xstate_watch *w = arg;
	long double in[8], out[8];
	uint16_t control = 0x027f, control_now;

	for (int i = 0; i < 8; i++)
		in[i] = 1.0L / (i + 3);
	__asm__ volatile("fldcw %1\n"
			 ".irp n, 0,1,2,3,4,5,6,7\n"
			 "fldt \\n * 16(%3)\n"
			 ".endr\n"
			 "1: pause\n"
			 "cmpl $0, (%4)\n"
			 "je 1b\n"
			 ".irp n, 7,6,5,4,3,2,1,0\n"
			 "fstpt \\n * 16(%2)\n"
			 ".endr\n"
			 "fnstcw %0\n"
			 : "=m"(control_now)
			 : "m"(control), "r"(out), "r"(in), "r"(&w->told)
			 : "memory", "st", "st(1)", "st(2)", "st(3)", "st(4)", "st(5)", "st(6)",
			   "st(7)");
	CHECK_EQ(control, control_now);
	for (int i = 0; i < 8; i++)
		CHECK(in[i] == out[i]);
	return NULL;
}

static void *hold_mxcsr(void *arg)
{
	struct xstate_watch *w = arg;
	unsigned control = 0x1f80 | 0x8000 | 0x4000 /* towards +inf, flush to zero */, now;

	__asm__ volatile("ldmxcsr %0" : : "m"(control));
	while (!w->told)
		__builtin_ia32_pause();
	__asm__ volatile("stmxcsr %0" : "=m"(now));
	CHECK_EQ(now & ~0x3fu, control);
	return NULL;
}

int main(int argc, char **argv)
{
	struct xstate_watch watch = {0};
	uint8_t regs[N_REGS][REG_BYTES], before[N_REGS][REG_BYTES];
	bool avx = __builtin_cpu_supports("avx");
	pthread_t x87, mxcsr;

	pattern_fill(regs, sizeof(regs), 1);
	memcpy(before, regs, sizeof(regs));
	CHECK(pthread_create(&x87, NULL, hold_x87, &watch) == 0);
	CHECK(pthread_create(&mxcsr, NULL, hold_mxcsr, &watch) == 0);
	sleep_ms(20);
	xstate_watch_start(&watch, argc, argv);
	if (avx)
		hold_ymm(regs, &watch.told);
	else
		hold_xmm(regs, &watch.told);
	CHECK(!memcmp(regs, before, sizeof(regs)));
	CHECK(pthread_join(x87, NULL) == 0 && pthread_join(mxcsr, NULL) == 0);
	return xstate_watch_pass(&watch);
}
