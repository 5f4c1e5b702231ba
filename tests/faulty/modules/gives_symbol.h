/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef GIVES_SYMBOL_H
#define GIVES_SYMBOL_H

int gives_symbol_answer(void);

#endif /* GIVES_SYMBOL_H */
