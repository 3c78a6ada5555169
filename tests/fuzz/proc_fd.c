/* /proc/PID/fdinfo/N, timers and sched. */
#include "fuzz.h"

#include "checkpointer/tracee/procfs.h"

static const char *const seeds[] = {
	"pos:\t4160\nflags:\t0100001\nmnt_id:\t15\nino:\t10952802\n"
	"lock:\t1: FLOCK  ADVISORY  WRITE 812 fe:00:1234 0 EOF\n",
	"pos:\t0\nflags:\t02\nmnt_id:\t15\nino:\t1057\neventfd-count:             1234\n"
	"eventfd-id: 3\nsigmask:\t0000000000000200\nPid:\t-1\nNSpid:\t4\nclockid: 1\n"
	"tfd:        4 events:       19 data:                4\n"
	"inotify wd:1 ino:9e7e sdev:800013 mask:800afce ignored_mask:0 fhandle-bytes:8 fhandle-type:1 "
	"f_handle:7e9e0000640d1b6c\n",
	"ID: 1\nsignal: 60/00007fff86e452a8\nnotify: signal/pid.2634\nClockID: 0\n"
	"ID: 0\nsignal: 0/0x1\nnotify: none/tid.2635\nClockID: -6\n",
	"sleep (12, #threads: 1)\n-----\nse.exec_start                  :      2208096.000042\n",
};

size_t fuzz_seed(unsigned i, uint8_t *buf, size_t room)
{
	return fuzz_seed_text(seeds, 4, i, buf, room);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = fuzz_string(data, size);
	struct proc_timer *timers;
	struct proc_watch *watches;
	struct proc_fdinfo info;
	struct err err = {0};
	size_t n;

	if (proc_parse_fdinfo(text, &info, &err) < 0)
		promise(err.kind == ERR_CORRUPT);
	if (proc_parse_timers(text, &timers, &n, &err) == 0) {
		for (size_t i = 0; i < n; i++)
			promise(timers[i].id >= 0 && timers[i].signal >= 0 &&
				timers[i].signal <= 64);
		free(timers);
	} else {
		promise(err.kind == ERR_CORRUPT);
	}
	if (proc_parse_inotify(text, &watches, &n, &err) == 0)
		free(watches);
	else
		promise(err.kind == ERR_CORRUPT);
	proc_parse_exec_start(text);
	free(text);
	return 0;
}
