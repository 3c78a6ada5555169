/* /proc/PID/maps and smaps. */
#include "fuzz.h"

#include "checkpointer/tracee/procfs.h"

static const char *const seeds[] = {
	"55f6abbc0000-55f6abc81000 r-xp 0002f000 fe:00 247101                     /usr/bin/bash\n"
	"55f6d2c5e000-55f6d2d8f000 rw-p 00000000 00:00 0                          [heap]\n"
	"7f9244ca2000-7f9244ca3000 rw-s 00000000 fe:00 12                  /a b\\012c (deleted)\n",
	"7ffc2f767000-7ffc2f788000 rw-p 00000000 00:00 0                          [stack]\n"
	"Size:                132 kB\nKernelPageSize:        4 kB\nRss:                  12 kB\n"
	"Swap:                  0 kB\nProtectionKey:         0\nVmFlags: rd wr mr mw me gd ac sd \n"
	"ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n"
	"VmFlags: ex\n",
};

size_t fuzz_seed(unsigned i, uint8_t *buf, size_t room)
{
	return fuzz_seed_text(seeds, 2, i, buf, room);
}

static void check(struct proc_map *maps, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		promise(maps[i].start < maps[i].end);
		promise(i == 0 || maps[i].start >= maps[i - 1].end);
		promise(maps[i].name);
	}
	proc_maps_free(maps, n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = fuzz_string(data, size);
	struct proc_map *maps;
	struct err err = {0};
	size_t n;

	if (proc_parse_maps(text, &maps, &n, &err) == 0)
		check(maps, n);
	else
		promise(err.kind == ERR_CORRUPT);
	if (proc_parse_smaps(text, &maps, &n, &err) == 0)
		check(maps, n);
	else
		promise(err.kind == ERR_CORRUPT);
	free(text);
	return 0;
}
