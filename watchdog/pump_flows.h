/* pump_flows.h: one stream's steps, for pump.c. All are called with the pump's lock held. */
#ifndef PAWL_WATCHDOG_PUMP_FLOWS_H
#define PAWL_WATCHDOG_PUMP_FLOWS_H

#include "watchdog/pump.h"

bool outflow_wants_more(const struct outflow *f);
bool outflow_has_pending(const struct outflow *f);
/* One read from the job into log and memory; false when there was nothing (more). */
bool outflow_read(struct pump *pump, struct outflow *f);
void outflow_write(struct pump *pump, struct outflow *f);
bool outflow_hang_up(struct outflow *f, uint64_t now);

bool inflow_wants_more(const struct pump *pump);
bool inflow_has_data(const struct pump *pump);
void inflow_read(struct pump *pump);
void inflow_write(struct pump *pump);
void inflow_retry(struct pump *pump);
/* The job has closed its end: so is the caller's, as without pawl. */
void inflow_refused(struct pump *pump);

bool keyflow_wants_more(const struct keyflow *k);
void keyflow_read(struct keyflow *k);
void keyflow_write(struct keyflow *k);

/* Drops every \r that a \n follows; *held: a last \r is held back for the next call. Returns the
 * new length; data has room for one more byte in front of what is given (the one held back). */
size_t drop_cr(char *data, size_t len, bool *held);

#endif
