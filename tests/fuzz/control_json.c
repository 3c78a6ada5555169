/* What a watchdog answers on its control socket. */
#include "fuzz.h"

#include <jansson.h>

#include "watchdog/control.h"

size_t fuzz_seed(unsigned i, uint8_t *buf, size_t room)
{
	struct snapshot_info info = {.job = "sim", .seq = 7, .tracker = "pagemap", .pause_us = 3};
	json_t *object;
	size_t len;

	if (i > 0)
		return 0;
	object = control_pack_snapshot(&info);
	len = json_dumpb(object, (char *)buf, room, 0);
	json_decref(object);
	return len;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	json_t *object = json_loadb((const char *)data, size, 0, NULL);
	struct snapshot_info info;
	struct err err = {0};

	if (!object)
		return 0;
	if (control_unpack_snapshot(object, &info, &err) == 0)
		promise(memchr(info.job, '\0', sizeof(info.job)) &&
			memchr(info.tracker, '\0', sizeof(info.tracker)));
	else
		promise(err.kind == ERR_CORRUPT);
	json_decref(object);
	return 0;
}
