"""`weave doctor`: facts about host and daemon are gathered once, then pure functions make findings of them.

    probe_* ──> Facts ──> diagnosis_* ──> Finding(verdict, text, advice) ──> terminal or JSON

`gather` calls the probes, each with a time limit; `examination` calls the diagnoses. Nothing here changes the host.
"""
