package org.edgehadanorm.core;

/** What the numbers of a tensor are; the programs that run here take and give no others. */
public enum Dtype {
    FLOAT32("float32"),
    INT64("int64");

    private final String text;

    Dtype(String text) {
        this.text = text;
    }

    /** As the manifest writes it. */
    @Override
    public String toString() {
        return text;
    }
}
