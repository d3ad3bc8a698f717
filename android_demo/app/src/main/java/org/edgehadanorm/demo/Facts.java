package org.edgehadanorm.demo;

import android.content.Context;
import android.view.LayoutInflater;
import android.view.View;
import android.view.ViewGroup;
import android.widget.TextView;

/** A table of names and values in a view group. */
final class Facts {
    private final LayoutInflater inflater;
    private final ViewGroup table;

    /** An empty table. */
    Facts(Context context, ViewGroup table) {
        inflater = LayoutInflater.from(context);
        this.table = table;
        table.removeAllViews();
    }

    void add(Fact fact) {
        add(Fields.text(inflater.getContext(), fact.name()), Fields.text(inflater.getContext(), fact.value()));
    }

    void add(CharSequence name, CharSequence value) {
        View row = inflater.inflate(R.layout.row_fact, table, false);
        ((TextView) row.findViewById(R.id.name)).setText(name);
        ((TextView) row.findViewById(R.id.value)).setText(value);
        table.addView(row);
    }
}
