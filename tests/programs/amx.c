/*
 * amx.c: the eight AMX tiles and their configuration live across the snapshot.
 */
#include "xstate.h"

#include <cpuid.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define REQ_XCOMP_PERM 0x1023 /* ARCH_REQ_XCOMP_PERM, asm/prctl.h */
#define XTILEDATA      18
#define N_TILES	       8
#define ROWS	       16
#define ROW_BYTES      64

struct tile_config { /* Intel SDM vol. 1, 18.3 */
	uint8_t palette, start_row, reserved[14];
	uint16_t row_bytes[16];
	uint8_t rows[16];
};

struct tiles {
	uint8_t tile[N_TILES][ROWS * ROW_BYTES];
};

static bool cpu_has_amx(void)
{
	unsigned a, b, c, d;

	return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & (1u << 24)) /* AMX-TILE */;
}

__attribute__((target("amx-tile"))) static void hold(const struct tile_config *config,
						     struct tiles *tiles, volatile int *told)
{
	__asm__ volatile("ldtilecfg (%0)\n"
			 ".irp n, 0,1,2,3,4,5,6,7\n"
			 "tileloadd \\n * 1024(%1, %3), %%tmm\\n\n"
			 ".endr\n"
			 "1: pause\n"
			 "cmpl $0, (%2)\n"
			 "je 1b\n"
			 ".irp n, 0,1,2,3,4,5,6,7\n"
			 "tilestored %%tmm\\n, \\n * 1024(%1, %3)\n"
			 ".endr\n"
			 "tilerelease\n"
			 :
			 : "r"(config), "r"(tiles), "r"(told), "r"((uint64_t)ROW_BYTES)
			 : "memory");
}

int main(int argc, char **argv)
{
	struct xstate_watch watch = {0};
	struct tile_config config = {.palette = 1};
	static struct tiles tiles, before;

	if (!cpu_has_amx())
		target_skip("this CPU has no AMX");
	if (syscall(SYS_arch_prctl, REQ_XCOMP_PERM, XTILEDATA))
		target_skip("this kernel does not permit AMX tiles");
	for (int i = 0; i < N_TILES; i++) {
		config.rows[i] = ROWS;
		config.row_bytes[i] = ROW_BYTES;
	}
	pattern_fill(&tiles, sizeof(tiles), 1);
	before = tiles;
	xstate_watch_start(&watch, argc, argv);
	hold(&config, &tiles, &watch.told);
	CHECK(!memcmp(&tiles, &before, sizeof(tiles)));
	return xstate_watch_pass(&watch);
}
