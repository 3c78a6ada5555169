/* /proc/PID/stat, status and limits. */
#include "fuzz.h"

#include "checkpointer/tracee/procfs.h"

static const char *const seeds[] = {
	"5449 (a) S 1 (x) R 5384 5449 5384 34816 5449 4194304 310 0 0 0 1 2 0 0 20 -5 3 0 220809 "
	"2990080 418 18446744073709551615 94132049 94148000 140735 0 0 0 0 4096 1024 0 0 0 17 1 50 "
	"2 "
	"0 0 0 94160288 94161920 94170000 140736 140750 140750 140780 9\n",
	"Name:\tsim\\\\a\\nb\nUmask:\t0027\nState:\tt (tracing stop)\nTgid:\t4907\nPid:\t4908\n"
	"PPid:\t4861\nTracerPid:\t77\nUid:\t1000\t1001\t1002\t1003\nGid:\t100\t101\t102\t103\n"
	"Groups:\t4 20 100 1000 \nNSpid:\t4908\t13\t4\nNSpgid:\t4861\t12\t3\nNSsid:\t2866\t0\t0\n"
	"THP_enabled:\t0\nThreads:\t2\nSigPnd:\t0000000000000001\nShdPnd:\t0000000000000002\n"
	"SigBlk:\t8000000000000004\nCapBnd:\t000001fffeffffff\nNoNewPrivs:\t1\nSeccomp:\t2\n",
	"Max cpu time              unlimited            unlimited            seconds   \n"
	"Max file size             unlimited            unlimited            bytes     \n"
	"Max data size             unlimited            unlimited            bytes     \n"
	"Max stack size            8388608              unlimited            bytes     \n"
	"Max core file size        0                    unlimited            bytes     \n"
	"Max resident set          unlimited            unlimited            bytes     \n"
	"Max processes             96365                96365                processes \n"
	"Max open files            20000                20000                files     \n"
	"Max locked memory         8388608              8388608              bytes     \n"
	"Max address space         unlimited            unlimited            bytes     \n"
	"Max file locks            unlimited            unlimited            locks     \n"
	"Max pending signals       96365                96365                signals   \n"
	"Max msgqueue size         819200               819200               bytes     \n"
	"Max nice priority         0                    0                    \n"
	"Max realtime priority     0                    0                    \n"
	"Max realtime timeout      unlimited            unlimited            us        \n",
};

size_t fuzz_seed(unsigned i, uint8_t *buf, size_t room)
{
	return fuzz_seed_text(seeds, 3, i, buf, room);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = fuzz_string(data, size);
	struct proc_limit limits[PROC_N_LIMITS];
	struct proc_status status;
	struct proc_stat stat;
	struct err err = {0};

	if (proc_parse_stat(text, &stat, &err) == 0)
		promise(memchr(stat.comm, '\0', sizeof(stat.comm)) && stat.pid >= 0);
	else
		promise(err.kind == ERR_CORRUPT);
	if (proc_parse_status(text, &status, &err) == 0) {
		promise(memchr(status.name, '\0', sizeof(status.name)) && status.pid > 0);
		proc_status_clear(&status);
	} else {
		promise(err.kind == ERR_CORRUPT);
	}
	if (proc_parse_limits(text, limits, &err) < 0)
		promise(err.kind == ERR_CORRUPT);
	free(text);
	return 0;
}
