# The demo: real text through every stage to a chat model and a report.
#
# Each folder's manifest.json, written last, is the target: an interrupted stage leaves none, and the same command
# carries it on. Every stage reads its table of examples/demo.toml from a file of its own, which is rewritten only
# when that table has changed: a changed setting makes again what depends on it and nothing else. --overwrite
# replaces what an older setting or input made; the unfinished work of the same command is carried on all the same.

DEMO ?= demo
DEMO_TOML ?= examples/demo.toml
SETTINGS := $(DEMO)/settings
STAGES := collect tasks filter dedup remix tokenizer tokens base sft dpo eval ladder fits
SPLIT := $(STAGES:%=$(SETTINGS)/%.toml)
DSLLM := $(BIN)/dsllm
SETTING = --config $(SETTINGS)/$(1).toml --overwrite

# Models are trained in bf16 where the processor multiplies it, and in fp32 where it would only pretend to.
DTYPE ?= $(shell grep -qE 'avx512_bf16|amx_bf16' /proc/cpuinfo 2> /dev/null && echo bf16 || echo fp32)

.PHONY: demo
demo: $(DEMO)/summary.txt ## Carry real text through every stage to a chat model and demo/report.html

$(SETTINGS)/.split: $(DEMO_TOML) examples/split_settings.py $(VENV)/.installed
	$(BIN)/python examples/split_settings.py $(DEMO_TOML) $(SETTINGS) $(STAGES)
	@touch $@

$(SPLIT): $(SETTINGS)/.split ;

# Data

$(DEMO)/raw/summary.json: examples/collect_corpus.py $(SETTINGS)/collect.toml
	$(BIN)/python $< $(@D) $$(cat $(SETTINGS)/collect.flags)

$(DEMO)/tasks/summary.json: examples/make_tasks.py examples/task_kinds.py $(SETTINGS)/tasks.toml
	$(BIN)/python $< $(@D) $$(cat $(SETTINGS)/tasks.flags)

$(DEMO)/filtered/manifest.json: $(DEMO)/raw/summary.json $(SETTINGS)/filter.toml
	$(DSLLM) filter $(DEMO)/raw/*.jsonl -o $(@D) --rejected $(DEMO)/rejected $(call SETTING,filter)

$(DEMO)/unique/manifest.json: $(DEMO)/filtered/manifest.json $(SETTINGS)/dedup.toml
	$(DSLLM) dedup $(DEMO)/filtered -o $(@D) --removed $(DEMO)/duplicates $(call SETTING,dedup)

$(DEMO)/mix/manifest.json: $(DEMO)/unique/manifest.json $(DEMO)/tasks/summary.json $(SETTINGS)/remix.toml
	$(DSLLM) remix $(DEMO)/unique $(DEMO)/tasks/text.jsonl -o $(@D) $(call SETTING,remix)

$(DEMO)/tokenizer/manifest.json: $(DEMO)/mix/manifest.json $(SETTINGS)/tokenizer.toml
	$(DSLLM) tokenize train $(DEMO)/mix -o $(@D) $(call SETTING,tokenizer)

$(DEMO)/tokens/manifest.json: $(DEMO)/mix/manifest.json $(DEMO)/tokenizer/manifest.json $(SETTINGS)/tokens.toml
	$(DSLLM) tokenize encode $(DEMO)/mix -o $(@D) --tokenizer $(DEMO)/tokenizer $(call SETTING,tokens)

$(DEMO)/tokens-heldout/manifest.json: $(DEMO)/raw/summary.json $(DEMO)/tokenizer/manifest.json $(SETTINGS)/tokens.toml
	$(DSLLM) tokenize encode $(DEMO)/raw/heldout -o $(@D) --tokenizer $(DEMO)/tokenizer $(call SETTING,tokens)

# Models

TOKENS := $(DEMO)/tokens/manifest.json $(DEMO)/tokens-heldout/manifest.json

$(DEMO)/base/manifest.json: $(TOKENS) $(SETTINGS)/base.toml
	$(DSLLM) pretrain $(DEMO)/tokens -o $(@D) --valid $(DEMO)/tokens-heldout --dtype $(DTYPE) $(call SETTING,base)

$(DEMO)/sft/manifest.json: $(DEMO)/base/manifest.json $(DEMO)/tasks/summary.json $(SETTINGS)/sft.toml
	$(DSLLM) sft $(DEMO)/tasks/sft.jsonl -o $(@D) --model $(DEMO)/base --dtype $(DTYPE) $(call SETTING,sft)

$(DEMO)/dpo/manifest.json: $(DEMO)/sft/manifest.json $(DEMO)/tasks/summary.json $(SETTINGS)/dpo.toml
	$(DSLLM) dpo $(DEMO)/tasks/prefs.jsonl -o $(@D) --model $(DEMO)/sft --dtype $(DTYPE) $(call SETTING,dpo)

EVALS := $(patsubst %,$(DEMO)/eval-%/manifest.json,base sft dpo)

$(EVALS): $(DEMO)/eval-%/manifest.json: $(DEMO)/%/manifest.json $(DEMO)/tasks/summary.json $(DEMO)/raw/summary.json \
		$(SETTINGS)/eval.toml
	$(DSLLM) eval $(DEMO)/$* -o $(@D) --task english=$(DEMO)/tasks/heldout/en --task chinese=$(DEMO)/tasks/heldout/zh \
		--task text=$(DEMO)/raw/heldout $(call SETTING,eval)

# The scaling ladder: tiny runs of several sizes for each compute budget, and the laws fitted to them

$(DEMO)/ladder/manifest.json: $(DEMO)/tokens/manifest.json $(SETTINGS)/ladder.toml
	rm -rf $(DEMO)/runs
	$(DSLLM) fit-scaling plan -o $(@D) --tokens $(DEMO)/tokens --runs $(DEMO)/runs \
		--more "--dtype fp32 --init-std 0.02 --eval-every 1000000 --quiet" $(call SETTING,ladder)

# Models this small gain nothing from a second thread, so two of them train at a time.
$(DEMO)/runs/.done: $(DEMO)/ladder/manifest.json
	grep '^\[' $(DEMO)/ladder/ladder.sh | \
		PATH="$(abspath $(BIN)):$$PATH" OMP_NUM_THREADS=1 xargs -P 2 -I RUN sh -c 'RUN'
	@touch $@

$(DEMO)/fits/manifest.json: $(DEMO)/runs/.done $(SETTINGS)/fits.toml
	$(DSLLM) fit-scaling fit $(DEMO)/runs -o $(@D) $(call SETTING,fits)

# What there is to see

$(DEMO)/chat.txt: $(DEMO)/dpo/manifest.json examples/questions.txt
	$(DSLLM) chat $(DEMO)/dpo --max-new-tokens 16 < examples/questions.txt > $@.partial
	@mv $@.partial $@

$(DEMO)/report.html: $(EVALS) $(DEMO)/fits/manifest.json
	$(DSLLM) report $(DEMO) -o $@ --title "From the text of a Python installation to a chat model"

$(DEMO)/summary.txt: $(DEMO)/report.html $(DEMO)/chat.txt examples/demo_table.py
	@$(BIN)/python examples/demo_table.py $(DEMO) examples/questions.txt > $@.partial
	@mv $@.partial $@
	@cat $@
	@echo "The report: $(DEMO)/report.html. To talk to the model: $(DSLLM) chat $(DEMO)/dpo"
