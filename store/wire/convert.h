/*
 * convert.h: records between their structs and the wire's messages. Pure.
 */
#ifndef PAWL_STORE_WIRE_CONVERT_H
#define PAWL_STORE_WIRE_CONVERT_H

#include <string.h>

#include "store/store.h"
#include "wire.pb-c.h"

/* A message that borrows from the job; `texts` is malloc'ed for it, freed with the message's use. */
struct wire_job_message {
	Wire__Job job;
	ProtobufCBinaryData *texts;
};
int wire_job_pack(const struct job_info *info, struct wire_job_message *ret, struct err *err);
/* Checks name and texts (no zero bytes). id, pids and last_seq are 0. job_info_clear. ERR_CORRUPT. */
int wire_job_unpack(const Wire__Job *job, struct job_info *ret, struct err *err);

/* Borrows from info. */
Wire__Head wire_head_pack(const struct snapshot_info *info);
void wire_head_unpack(const Wire__Head *head, struct snapshot_info *ret);

/* An error for the other side, and back. */
static inline ProtobufCBinaryData wire_text(const char *text)
{
	return (ProtobufCBinaryData){strlen(text), (uint8_t *)text};
}
int wire_error_unpack(uint32_t kind, const ProtobufCBinaryData *text, struct err *err);

#endif
